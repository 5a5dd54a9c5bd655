"""Requests beyond the limit wait in line: none is overtaken for ever by a caller that asks again and again."""

from __future__ import annotations

import asyncio
from collections import Counter

from aiohttp import web

from shoal.kube import KubeClient
from shoal.kube.connection import REQUEST_CONNECTIONS
from shoal.kube.credentials import Credentials, StaticSource
from shoal.kube.resources import NODES

CALLERS = 3 * REQUEST_CONNECTIONS
REQUESTS = 10 * CALLERS


class FakeServer:
    """Answers after a moment; remembers who asked and how many at once."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.open = 0
        self.most = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.open += 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(0.001)
        self.open -= 1
        self.answered[request.path] += 1
        return web.json_response({"kind": "Node"})


async def test_busy_callers_starve_nobody() -> None:
    server = FakeServer()
    app = web.Application()
    app.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        source = StaticSource(Credentials(server=f"http://127.0.0.1:{runner.addresses[0][1]}"))
        async with KubeClient(source) as client:
            left = iter(range(REQUESTS))

            async def call(name: str) -> None:
                for _ in left:
                    await client.get(NODES, name)

            await asyncio.gather(*(call(f"caller-{number}") for number in range(CALLERS)))
    finally:
        await runner.cleanup()
    assert server.most <= REQUEST_CONNECTIONS
    assert len(server.answered) == CALLERS
    assert max(server.answered.values()) - min(server.answered.values()) <= 2
