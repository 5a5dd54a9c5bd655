"""Which failures are repeated, how long is waited, and how errors are decoded, with a server that fails on purpose."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from shoal.kube import (
    BadRequestError,
    ForbiddenError,
    GoneError,
    InvalidError,
    KubeClient,
    NotFoundError,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
)
from shoal.kube.credentials import Credentials, CredentialsError, ReloadingSource, StaticSource
from shoal.kube.errors import error_from_status
from shoal.kube.resources import CONFIG_MAPS, NODES, PODS, RL_JOBS
from shoal.kube.retry import NotSentError, RetryPolicy

FAST = RetryPolicy(attempts=4, base=0.001, cap=0.002)


class FailingServer:
    """Answers with the given statuses in turn (0: drops the connection), then with an object."""

    def __init__(self) -> None:
        self.statuses: deque[int] = deque()
        self.requests: list[tuple[str, str]] = []
        self.retry_after = ""
        self.url = ""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[FailingServer]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests.append((request.method, request.headers.get("Authorization", "")))
        status = self.statuses.popleft() if self.statuses else 200
        if status == 0:
            assert request.transport is not None
            request.transport.abort()
        if status < 400:
            return web.json_response({"metadata": {"name": "a"}})
        headers = {"Retry-After": self.retry_after} if self.retry_after else {}
        return web.json_response({"kind": "Status", "code": status, "message": "fault"}, status=status, headers=headers)


@pytest.fixture
async def server() -> AsyncIterator[FailingServer]:
    async with FailingServer().serve() as server:
        yield server


def client_of(server: FailingServer) -> KubeClient:
    return KubeClient(StaticSource(Credentials(server=server.url, token="t")), retry=FAST)


@pytest.mark.parametrize("statuses", [[500, 503], [0, 0], [429, 429], [0, 500, 429]])
async def test_reading_and_applying_is_repeated(server: FailingServer, statuses: list[int]) -> None:
    async with client_of(server) as client:
        server.statuses.extend(statuses)
        await client.get(CONFIG_MAPS, "a", "n")
        server.statuses.extend(statuses)
        await client.apply(CONFIG_MAPS, {"metadata": {"name": "a"}}, "n")
        assert len(server.requests) == 2 * (len(statuses) + 1)


@pytest.mark.parametrize("status", [500, 0])
async def test_a_creation_that_may_have_been_done_is_not_repeated(server: FailingServer, status: int) -> None:
    async with client_of(server) as client:
        server.statuses.extend([status])
        with pytest.raises(UnavailableError):
            await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "n")
        assert len(server.requests) == 1


async def test_a_creation_that_was_refused_for_load_is_repeated(server: FailingServer) -> None:
    async with client_of(server) as client:
        server.statuses.extend([429])
        await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "n")
        assert len(server.requests) == 2


@pytest.mark.parametrize("status", [400, 403, 404, 409, 410, 422])
async def test_what_stays_wrong_is_not_repeated(server: FailingServer, status: int) -> None:
    async with client_of(server) as client:
        server.statuses.extend([status] * 5)
        with pytest.raises(Exception, match="fault"):
            await client.get(CONFIG_MAPS, "a", "n")
        assert len(server.requests) == 1


async def test_it_gives_up_after_its_attempts_with_the_server_s_wish(server: FailingServer) -> None:
    async with client_of(server) as client:
        server.statuses.extend([503] * 10)
        with pytest.raises(UnavailableError):
            await client.get(CONFIG_MAPS, "a", "n")
        assert len(server.requests) == FAST.attempts
        server.statuses.clear()
        server.statuses.extend([429] * 10)
        server.retry_after = "3600"
        with pytest.raises(TooManyRequestsError) as caught:
            await client.get(CONFIG_MAPS, "a", "n")
        assert caught.value.retry_after == 3600


async def test_a_refused_token_is_renewed_once_for_all(server: FailingServer) -> None:
    tokens = iter(["old", "new", "newer"])
    source = ReloadingSource(lambda: Credentials(server=server.url, token=next(tokens)))
    async with KubeClient(source, retry=FAST) as client:
        server.statuses.extend([401, 401, 401])
        await asyncio.gather(*(client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "n") for _ in range(3)))
        assert {token for _, token in server.requests[3:]} == {"Bearer new"}


async def test_a_token_that_stays_refused_is_an_error(server: FailingServer) -> None:
    async with client_of(server) as client:
        server.statuses.extend([401] * 3)
        with pytest.raises(UnauthorizedError):
            await client.get(CONFIG_MAPS, "a", "n")
        assert len(server.requests) == 1


async def test_new_credentials_may_lead_to_another_server(server: FailingServer) -> None:
    async with FailingServer().serve() as other:
        servers = iter([server.url, other.url])
        source = ReloadingSource(lambda: Credentials(server=next(servers)))
        async with KubeClient(source, retry=FAST) as client:
            await client.get(CONFIG_MAPS, "a", "n")
            server.statuses.extend([401])
            await client.get(CONFIG_MAPS, "a", "n")
        assert len(other.requests) == 1


async def test_a_server_that_is_not_there() -> None:
    async with KubeClient(StaticSource(Credentials(server="http://127.0.0.1:1")), retry=FAST) as client:
        with pytest.raises(NotSentError, match="POST /api/v1/namespaces/n/configmaps"):
            await client.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, "n")


async def test_credentials_that_are_gone_for_a_while_are_an_api_error(server: FailingServer) -> None:
    def read() -> Credentials:
        if gone:
            raise CredentialsError("the file is being replaced")
        return Credentials(server=server.url)

    gone = True
    async with KubeClient(ReloadingSource(read), retry=FAST) as client:
        with pytest.raises(UnauthorizedError, match="being replaced"):
            await client.get(CONFIG_MAPS, "a", "n")
        gone = False
        await client.get(CONFIG_MAPS, "a", "n")
        gone = True
        server.statuses.extend([401])
        with pytest.raises(UnauthorizedError):
            await client.get(CONFIG_MAPS, "a", "n")


async def test_requests_are_observed(server: FailingServer) -> None:
    seen: list[tuple[str, str, int]] = []
    async with client_of(server) as client:
        client.observe(lambda verb, resource, status, _: seen.append((verb, resource, status)))
        server.statuses.extend([503])
        await client.get(RL_JOBS, "a", "n")
    assert seen == [("get", "rljobs.rl.shoal.dev", 503), ("get", "rljobs.rl.shoal.dev", 200)]


@given(attempt=st.integers(1, 30), retry_after=st.none() | st.floats(0, 100), safe=st.booleans())
def test_delays_stay_within_their_bounds(attempt: int, retry_after: float | None, safe: bool) -> None:
    policy = RetryPolicy(attempts=10, base=0.1, cap=5)
    for error in (UnavailableError("x"), TooManyRequestsError("x"), NotSentError("x")):
        error.retry_after = retry_after
        delay = policy.delay(error, attempt, safe=safe)
        if attempt >= 10 or (not safe and type(error) is UnavailableError):
            assert delay is None
        elif retry_after is not None:
            assert delay is None if retry_after > 30 else retry_after <= delay <= retry_after * 1.1  # type: ignore[operator]
        else:
            assert delay is not None
            assert 0 <= delay <= min(5, 0.1 * 2 ** (attempt - 1))


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {}, BadRequestError),
        (403, {}, ForbiddenError),
        (404, {}, NotFoundError),
        (410, {}, GoneError),
        (500, {"reason": "Expired"}, GoneError),
        (504, {"reason": "Timeout"}, UnavailableError),
        (418, None, BadRequestError),
    ],
)
def test_errors_by_status_and_reason(status: int, body: dict[str, Any] | None, kind: type[Exception]) -> None:
    assert type(error_from_status(status, body)) is kind


def test_a_refusal_carries_its_fields() -> None:
    details = {"causes": [{"field": "spec.slots", "reason": "FieldValueInvalid", "message": "must be positive"}]}
    error = error_from_status(422, {"message": "invalid", "details": details}, what="POST /x")
    assert isinstance(error, InvalidError)
    assert str(error) == "POST /x: invalid"
    assert [(cause.field, cause.message) for cause in error.causes] == [("spec.slots", "must be positive")]


def test_paths() -> None:
    assert PODS.path("n", "a", "log") == "/api/v1/namespaces/n/pods/a/log"
    assert PODS.path() == "/api/v1/pods"
    assert NODES.path(None, "a") == "/api/v1/nodes/a"
    assert RL_JOBS.path("n") == "/apis/rl.shoal.dev/v1alpha1/namespaces/n/rljobs"
    assert PODS.path("n", "../x") == "/api/v1/namespaces/n/pods/..%2Fx"
    with pytest.raises(ValueError, match="a namespace is needed"):
        PODS.path(None, "a")
    with pytest.raises(ValueError, match="not namespaced"):
        NODES.path("n")
