"""Lists read page by page, the next page on its way while the last one is decoded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from shoal.kube import GoneError, KubeClient
from shoal.kube.credentials import Credentials, StaticSource
from shoal.kube.paging import peek_continue
from shoal.kube.resources import PODS
from shoal.kube.retry import RetryPolicy


class FakeServer:
    """Serves ten pods in pages; the metadata before the items, as kube-apiserver, or after them."""

    def __init__(self, *, late_metadata: bool = False, gone_at: int = 10) -> None:
        self.late_metadata = late_metadata
        self.gone_at = gone_at
        self.asked: list[dict[str, str]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(dict(request.query))
        start, limit = int(request.query.get("continue", "0")), int(request.query["limit"])
        if start >= self.gone_at:
            return web.json_response({"kind": "Status", "code": 410, "reason": "Expired"}, status=410)
        items = [{"metadata": {"name": f"p{number}"}} for number in range(start, min(10, start + limit))]
        token = {"continue": str(start + limit)} if start + limit < 10 else {}
        body: dict[str, Any] = {"kind": "PodList", "metadata": {"resourceVersion": "7", **token}, "items": items}
        if self.late_metadata:
            body["metadata"] = body.pop("metadata")
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    @asynccontextmanager
    async def client(self) -> AsyncIterator[KubeClient]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        source = StaticSource(Credentials(server=f"http://127.0.0.1:{runner.addresses[0][1]}"))
        try:
            async with KubeClient(source, retry=RetryPolicy(attempts=2, base=0.001)) as client:
                yield client
        finally:
            await runner.cleanup()


@pytest.mark.parametrize("late_metadata", [False, True])
async def test_all_pages_come_in_order_and_each_is_asked_for_once(late_metadata: bool) -> None:
    server = FakeServer(late_metadata=late_metadata)
    async with server.client() as client:
        pages = [page async for page in client.pages(PODS, "n", labels="a=b", limit=3)]
    names = [[body["metadata"]["name"] for body in page.items] for page in pages]
    assert names == [["p0", "p1", "p2"], ["p3", "p4", "p5"], ["p6", "p7", "p8"], ["p9"]]
    assert [page.token for page in pages] == ["3", "6", "9", ""]
    assert [query.get("continue") for query in server.asked] == [None, "3", "6", "9"]
    assert all(query["limit"] == "3" and query["labelSelector"] == "a=b" for query in server.asked)


async def test_the_next_page_is_asked_for_before_the_last_one_is_taken() -> None:
    server = FakeServer()
    async with server.client() as client, aclosing(client.pages(PODS, "n", limit=3)) as pages:  # type: ignore[type-var]
        await anext(pages)
        assert len(server.asked) == 2


async def test_a_list_that_grew_too_old_fails_after_the_pages_that_were_read() -> None:
    names: list[str] = []

    async def read(client: KubeClient) -> None:
        async for page in client.pages(PODS, "n", limit=3):
            names.extend(body["metadata"]["name"] for body in page.items)

    async with FakeServer(gone_at=6).client() as client:
        with pytest.raises(GoneError):
            await read(client)
    assert names == ["p0", "p1", "p2", "p3", "p4", "p5"]


@given(st.text(min_size=1))
def test_the_token_is_seen_in_the_head(token: str) -> None:
    body = {"kind": "PodList", "metadata": {"resourceVersion": "1", "continue": token}, "items": [{"continue": "x"}]}
    assert peek_continue(orjson.dumps(body)) == token


def test_what_only_looks_like_a_token_is_none() -> None:
    pod = {"metadata": {"annotations": {"continue": "x"}}}
    assert peek_continue(orjson.dumps({"metadata": {"resourceVersion": "1"}, "items": [pod]})) == ""
    assert peek_continue(orjson.dumps({"items": [pod], "metadata": {"continue": "y"}})) == ""
    assert peek_continue(b"") == ""
