"""The common service library over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from fastapi import Request
from starlette.responses import Response

from shoal.api.services.common import Message, Problem, Report, RoleConfig, VersionSpan
from shoal_workers.service import ProblemError, Service, ServiceClient, backoff, load_config, read, reply, serving
from shoal_workers.service.config import ConfigurationError, write_termination_message


class Echo(Message):
    text: str
    number: int = 0


class FakeStatus(Report):
    phase: str


def make_service(token: str | None = None) -> Service:
    service = Service("test", lambda: FakeStatus(phase="Ready"), token=token, public_prefixes=("/open/",))

    @service.app.post("/echo")
    async def echo(request: Request) -> Response:
        return reply(await read(request, Echo))

    @service.app.get("/open/door")
    async def door() -> Response:
        return reply(FakeStatus(phase="Open"))

    @service.app.get("/problem")
    async def problem() -> Response:
        raise ProblemError("no-free-slot", "all 3 are leased", status=409, extensions={"leased": 3})

    @service.app.get("/crash")
    async def crash() -> Response:
        raise KeyError("unexpected")

    @service.app.get("/slow")
    async def slow() -> Response:
        await asyncio.wait_for(service.stopping.wait(), 20)
        return reply(FakeStatus(phase="Stopping"))

    return service


@pytest.fixture
async def server() -> AsyncIterator[str]:
    async with serving(make_service("secret")) as url:
        yield url


async def test_probes_metrics_and_status_need_no_token(server: str) -> None:
    async with ServiceClient(server, retries=0) as client:
        assert (await client.call("GET", "/healthz")).body == b"ok"
        assert (await client.get("/status", FakeStatus)).phase == "Ready"
        assert b"shoal_http_requests_total" in (await client.call("GET", "/metrics")).body
        assert (await client.get("/open/door", FakeStatus)).phase == "Open"


async def test_other_routes_need_the_right_token(server: str) -> None:
    async with ServiceClient(server) as nobody, ServiceClient(server, token="wrong") as stranger:
        for client in (nobody, stranger):
            with pytest.raises(ProblemError) as caught:
                await client.post("/echo", {"text": "hi"}, Echo)
            assert (caught.value.name, caught.value.status) == ("unauthorized", 401)
    async with ServiceClient(server, token="secret") as client:
        assert await client.post("/echo", Echo(text="hi", number=2), Echo) == Echo(text="hi", number=2)


async def test_readiness_follows_the_service() -> None:
    service = make_service()
    async with serving(service) as url, ServiceClient(url, retries=0) as client:
        with pytest.raises(ProblemError, match="starting"):
            await client.call("GET", "/readyz")
        service.set_ready()
        assert (await client.call("GET", "/readyz")).status == 200
        service.set_not_ready("weights are loading")
        with pytest.raises(ProblemError, match="weights are loading"):
            await client.call("GET", "/readyz")


async def test_errors_are_problem_documents(server: str) -> None:
    async with ServiceClient(server, token="secret") as client:
        with pytest.raises(ProblemError) as caught:
            await client.call("GET", "/problem")
        assert (caught.value.name, caught.value.status, caught.value.extensions) == ("no-free-slot", 409, {"leased": 3})
        with pytest.raises(ProblemError, match="number: Input should be a valid integer") as caught:
            await client.call("POST", "/echo", {"text": "a", "number": "x"})
        assert caught.value.status == 422
        with pytest.raises(ProblemError, match="extra: Extra inputs"):
            await client.call("POST", "/echo", {"text": "a", "extra": 1})
        with pytest.raises(ProblemError) as caught:
            await client.call("GET", "/nowhere")
        assert caught.value.name == "not-found"
        with pytest.raises(ProblemError, match="internal-error: KeyError"):
            await client.call("GET", "/crash")
    async with aiohttp.ClientSession() as session, session.get(server + "/problem") as response:
        assert response.content_type == "application/problem+json"
        assert Problem.model_validate_json(await response.read()).type == "urn:shoal:problem:unauthorized"


async def test_client_waits_for_a_service_that_starts_late() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    async with ServiceClient(f"http://127.0.0.1:{port}", retries=20) as client:
        call = asyncio.create_task(client.call("POST", "/echo", {"text": "late"}))
        await asyncio.sleep(0.05)
        async with serving(make_service(), port=port):
            assert (await call).status == 200


async def test_client_names_an_unreachable_and_a_slow_service() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with ServiceClient(url, retries=0, timeout=0.05) as client:
            with pytest.raises(ProblemError) as caught:
                await client.call("POST", "/x", {})
            assert caught.value.name == "timeout"
    async with ServiceClient(url, retries=0) as client:
        with pytest.raises(ProblemError) as caught:
            await client.call("POST", "/x", {})
        assert caught.value.name == "unreachable"


async def test_a_stop_drains_then_ends_resources() -> None:
    service = make_service()
    events: list[str] = []

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        events.append("start")
        yield
        events.append("end")

    async def drain() -> None:
        events.append("drain")

    service.lives_with(resource)
    service.before_stop(drain)
    async with serving(service) as url:
        client = ServiceClient(url)
        poll = asyncio.create_task(client.get("/slow", FakeStatus))
        await client.call("GET", "/healthz")
    assert (await poll).phase == "Stopping"
    assert events == ["start", "drain", "end"]
    await client.close()


class FakeConfig(RoleConfig):
    name: str


def test_configuration_errors_name_the_field() -> None:
    good = load_config(FakeConfig, {"SHOAL_CONFIG": '{"name": "a", "port": 1}'})
    assert good == FakeConfig(name="a", port=1)
    with pytest.raises(ConfigurationError, match=r"SHOAL_CONFIG\.name: Field required"):
        load_config(FakeConfig, {"SHOAL_CONFIG": "{}"})
    with pytest.raises(ConfigurationError, match=r"SHOAL_CONFIG\.name: Field required \(and 1 more\)"):
        load_config(FakeConfig, {"SHOAL_CONFIG": '{"nmae": "a"}'})
    with pytest.raises(ConfigurationError, match="the variable is not set"):
        load_config(FakeConfig, {})


def test_termination_message_goes_where_the_node_reads_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write_termination_message("why", {"SHOAL_TERMINATION_LOG": str(log)})
    assert log.read_text() == "why"
    write_termination_message("why", {"SHOAL_TERMINATION_LOG": str(tmp_path / "no" / "log")})


PROGRAM = """
from shoal.api.services.common import Report, RoleConfig
from shoal_workers.service import ConfigurationError, Service, launch

class Config(RoleConfig):
    entry: str

def build(config, identity):
    if config.entry == "missing":
        raise ConfigurationError("entry", "there is no module 'missing'")
    service = Service("program", lambda: Report())
    service.set_ready()
    return service

launch("program", Config, build)
"""


def start(tmp_path: Path, config: dict[str, object]) -> subprocess.Popen[str]:
    environment = os.environ | {
        "SHOAL_CONFIG": json.dumps(config),
        "SHOAL_TERMINATION_LOG": str(tmp_path / "termination"),
        "POD_IP": "127.0.0.1",
    }
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_wrong_configuration_ends_with_one_clear_line(tmp_path: Path) -> None:
    for config, line in (
        ({"entry": "missing"}, "program: entry: there is no module 'missing'"),
        ({}, "program: SHOAL_CONFIG.entry: Field required"),
    ):
        process = start(tmp_path, config)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 2
        assert errors.strip() == line
        assert (tmp_path / "termination").read_text() == line


async def test_sigterm_is_a_graceful_stop(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start(tmp_path, {"entry": "ok", "port": port})
    try:
        async with ServiceClient(f"http://127.0.0.1:{port}", retries=40) as client:
            assert (await client.call("GET", "/readyz")).status == 200
            process.send_signal(signal.SIGTERM)
            output, errors = await asyncio.to_thread(process.communicate, timeout=30)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, "")
    assert json.loads(output.splitlines()[0])["message"] == "listening"


def test_backoff_grows_to_its_cap() -> None:
    assert all(0.05 <= backoff(0) <= 0.1 for _ in range(100))
    assert all(1.5 <= backoff(99) <= 3.0 for _ in range(100))


def test_version_spans_are_ordered() -> None:
    assert VersionSpan(version=1, start=0, end=3).end == 3
    with pytest.raises(ValueError, match="before start"):
        VersionSpan(version=1, start=3, end=2)


async def test_an_answer_that_does_not_fit_is_a_problem_of_the_service(server: str) -> None:
    async with ServiceClient(server, token="secret") as client:
        with pytest.raises(ProblemError) as caught:
            await client.get("/open/door", Echo)
    assert (caught.value.name, caught.value.status) == ("bad-answer", 502)
    assert "Echo" in caught.value.detail
