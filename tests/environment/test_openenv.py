"""OpenEnv's own client drives our server, and our adapter drives OpenEnv's own server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from shoal.api.services.leases import GrantRequest
from shoal.api.services.roles.environment import EnvironmentConfig, EnvironmentSource
from shoal_workers.environment.adapter import InvalidActionError, StartingError
from shoal_workers.environment.adapters import resolve
from shoal_workers.environment.member import Member
from shoal_workers.environment.server import make_service
from shoal_workers.service import Identity, ServiceClient, serving
from shoal_workers.service.server import listen, url_of

pytest.importorskip("openenv.core", reason="OpenEnv's own package is not installed")

from openenv.core import GenericEnvClient
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State

LAKE = EnvironmentSource(
    protocol="Gymnasium",
    entrypoint="FrozenLake-v1",
    config={"kwargs": {"is_slippery": False}, "actions": {"left": 0, "down": 1, "right": 2, "up": 3}},
)
WAY = ["down", "down", "right", "right", "down", "right"]


@asynccontextmanager
async def lake(*, opened: bool = False, slots: int = 1) -> AsyncIterator[Member]:
    config = EnvironmentConfig(environment=LAKE, slots=slots, open=opened, drain_seconds=0)
    member = Member(config, Identity("member-0", "default", "127.0.0.1", "uid"), resolve(LAKE))
    async with serving(make_service(member, "secret")) as url:
        member.url = url
        await ready(member)
        yield member


async def ready(member: Member) -> None:
    for _ in range(1000):
        if member.guard.started:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(member.guard.report())


def lease_url(member: Member) -> str:
    request = GrantRequest(lease_id="a", key="a", holder="agent", ttl=60, max_seconds=60)
    return f"{member.url}/leases/{member.grant(request).token}"


async def play(client: GenericEnvClient) -> list[Any]:
    first = await client.reset(seed=1, episode_id="episode")
    assert first.observation["text"] == "0"
    assert not first.done
    return [await client.step({"text": word}) for word in WAY]


async def test_their_client_drives_a_lease_by_its_url() -> None:
    async with lake() as member:
        async with GenericEnvClient(base_url=lease_url(member)) as client:
            steps = await play(client)
            assert [step.reward for step in steps] == [0, 0, 0, 0, 0, 1]
            assert [step.done for step in steps] == [False] * 5 + [True]
            assert steps[-1].observation["metadata"]["terminated"]
            state = await client.state()
            assert (state["episode_id"], state["step_count"]) == ("episode", 6)
            with pytest.raises(RuntimeError, match="episode has ended"):
                await client.step({"text": "up"})
            await client.reset(seed=1)
            odd = await client.step({"text": "sideways"})
            assert "sideways" in odd.metadata["invalid_action"]
        assert member.environment_report().steps == 6


async def test_their_synchronous_client_works_too() -> None:
    async with lake() as member:
        url = lease_url(member)

        def run() -> float:
            with GenericEnvClient(base_url=url).sync() as client:
                client.reset(seed=1)
                return sum(client.step({"text": word}).reward for word in WAY)

        assert await asyncio.to_thread(run) == 1


async def test_without_leases_the_server_is_a_plain_openenv_server() -> None:
    async with lake(opened=True, slots=2) as member:
        async with (
            GenericEnvClient(base_url=member.url) as one,
            GenericEnvClient(base_url=member.url) as other,
        ):
            for steps in await asyncio.gather(play(one), play(other)):
                assert steps[-1].reward == 1
            with pytest.raises(RuntimeError, match="CAPACITY_REACHED"):
                async with GenericEnvClient(base_url=member.url) as third:
                    await third.reset()
        for _ in range(200):
            if member.slot_totals().free == 2:
                break
            await asyncio.sleep(0.02)
        async with ServiceClient(member.url) as http:
            assert (await http.call("GET", "/health")).json() == {"status": "healthy"}
            assert (await http.call("GET", "/metadata")).json()["name"] == "FrozenLake-v1"
            assert set((await http.call("GET", "/schema")).json()) == {"action", "observation", "state"}
            assert (await http.call("POST", "/reset", {"seed": 1})).json()["observation"]["text"] == "0"
            answer = (await http.call("POST", "/step", {"action": {"text": "down"}})).json()
            assert (answer["observation"]["text"], answer["reward"], answer["done"]) == ("4", 0.0, False)
            assert (await http.call("GET", "/state")).json()["step_count"] == 1


async def test_nonsense_on_the_socket_is_answered() -> None:
    import aiohttp

    async with lake() as member, aiohttp.ClientSession() as session:
        async with session.ws_connect(lease_url(member) + "/ws") as socket:
            for text, code in (
                ("{", "INVALID_JSON"),
                ('{"type": "dance"}', "UNKNOWN_TYPE"),
                ("[]", "UNKNOWN_TYPE"),
                ('{"type": "step", "data": []}', "EXECUTION_ERROR"),
                ('{"type": "reset", "data": {"seed": "x"}}', "VALIDATION_ERROR"),
            ):
                await socket.send_str(text)
                answer = await socket.receive_json()
                assert (answer["type"], answer["data"]["code"]) == ("error", code)
            await socket.send_str('{"type": "close"}')
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        async with session.ws_connect(f"{member.url}/leases/guess/ws") as socket:
            await socket.send_str('{"type": "reset"}')
            assert (await socket.receive_json())["data"]["code"] == "SESSION_ERROR"


class EchoAction(Action):
    message: str


class EchoObservation(Observation):
    echo: str = ""


class EchoEnvironment(Environment[EchoAction, EchoObservation, State]):
    """Says again what it is told; ends with `bye`, breaks with `boom`."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, greeting: str = "hello") -> None:
        super().__init__()
        self._greeting = greeting
        self._state = State(step_count=0)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> EchoObservation:
        self._state = State(step_count=0)
        return EchoObservation(echo=f"{self._greeting} {seed} {kwargs.get('level', 0)}")

    def step(self, action: EchoAction, timeout_s: float | None = None, **kwargs: Any) -> EchoObservation:
        if action.message == "boom":
            raise RuntimeError("boom")
        self._state.step_count += 1
        done = action.message == "bye"
        return EchoObservation(echo=action.message, reward=float(len(action.message)), done=done, metadata={"n": 1})

    @property
    def state(self) -> State:
        return self._state


@contextlib.contextmanager
def real_server() -> Iterator[str]:
    app = create_fastapi_app(EchoEnvironment, EchoAction, EchoObservation, max_concurrent_envs=4)
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield url_of(listener)
    finally:
        server.should_exit = True
        thread.join(10)


def test_our_adapter_drives_their_server() -> None:
    with real_server() as url:
        config = {"observation": {"template": "heard {echo}"}}
        adapter = resolve(EnvironmentSource(protocol="OpenEnv", entrypoint=url, config=config)).create()
        assert adapter.reset(3, {"level": 2}).text == "heard hello 3 2"
        step = adapter.step({"text": "good day"})
        assert (step.observation.text, step.reward, step.terminated) == ("heard good day", 8.0, False)
        assert step.observation.info == {"n": 1}
        assert adapter.step({"message": "as it is"}).reward == 8.0
        with pytest.raises(InvalidActionError, match="VALIDATION_ERROR"):
            adapter.step({"loudness": 3})
        with pytest.raises(RuntimeError, match="boom"):
            adapter.step({"text": "boom"})
        assert adapter.step({"text": "bye"}).terminated
        adapter.recycle()
        adapter.verify()
        adapter.close()


async def test_their_server_behind_our_leases() -> None:
    with real_server() as url:
        config = {"actions": {"greet": "hi", "leave": "bye"}}
        source = EnvironmentSource(protocol="OpenEnv", entrypoint=url, config=config)
        settings = EnvironmentConfig(environment=source, slots=2, drain_seconds=0)
        member = Member(settings, Identity("member-0", "default", "127.0.0.1", "uid"), resolve(source))
        async with serving(make_service(member, None)) as own:
            member.url = own
            await ready(member)
            async with GenericEnvClient(base_url=lease_url(member)) as client:
                first = await client.reset(seed=1)
                assert first.observation["text"] == '{"echo":"hello 1 0"}'
                steps = [await client.step({"text": word}) for word in ("I greet you", "leave")]
                assert [step.reward for step in steps] == [2.0, 3.0]
                assert steps[-1].done


def test_a_server_that_is_not_there_yet_is_waited_for() -> None:
    listener = listen("127.0.0.1", 0)
    url = url_of(listener)
    listener.close()
    backend = resolve(EnvironmentSource(protocol="OpenEnv", entrypoint=url))
    assert not backend.probe
    with pytest.raises(StartingError, match="cannot reach the OpenEnv server"):
        backend.create()


def test_an_openenv_class_runs_in_the_process() -> None:
    module = EchoEnvironment.__module__
    config = {"action": f"{module}:EchoAction", "kwargs": {"greeting": "hey"}, "observation": {"template": "{echo}"}}
    source = EnvironmentSource(protocol="OpenEnv", entrypoint=f"{module}:EchoEnvironment", config=config)
    adapter = resolve(source).create()
    assert adapter.reset(1, {}).text == "hey 1 0"
    assert adapter.step({"text": "bye"}).terminated
    with pytest.raises(InvalidActionError):
        adapter.step({"volume": 11})
    adapter.close()
