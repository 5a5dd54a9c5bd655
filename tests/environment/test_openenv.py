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

from shoal.api.services.leases import GrantRequest, Outcome
from shoal.api.services.roles.environment import EnvironmentConfig, EnvironmentSource
from shoal_workers.environment.adapter import InvalidActionError, StartingError
from shoal_workers.environment.adapters import resolve
from shoal_workers.environment.member import Member
from shoal_workers.environment.server import make_service
from shoal_workers.service import Identity, ServiceClient, serving
from shoal_workers.service.server import listen, url_of

pytest.importorskip("openenv.core", reason="OpenEnv's own package is not installed")

from fastmcp import FastMCP
from openenv.core import GenericEnvClient
from openenv.core.client_types import StepResult
from openenv.core.env_client import EnvClient
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction
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
def real_server(
    environment: Any = EchoEnvironment, sessions: int = 4, port: int = 0, action: Any = EchoAction
) -> Iterator[str]:
    app = create_fastapi_app(environment, action, EchoObservation, max_concurrent_envs=sessions)
    listener = listen("127.0.0.1", port)
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
                assert first.observation == {"echo": "hello 1 0"}
                steps = [await client.step({"text": word}) for word in ("I greet you", "leave")]
                assert [step.reward for step in steps] == [2.0, 3.0]
                assert steps[-1].done


@asynccontextmanager
async def hosted(url: str, slots: int, **options: Any) -> AsyncIterator[Member]:
    """A member whose environment is the server at `url`; not yet ready."""
    source = EnvironmentSource(protocol="OpenEnv", entrypoint=url)
    settings = EnvironmentConfig(environment=source, slots=slots, drain_seconds=0, **options)
    member = Member(settings, Identity("member-0", "default", "127.0.0.1", "uid"), resolve(source))
    async with serving(make_service(member, None)) as own:
        member.url = own
        yield member


async def slots_are(member: Member, **expected: int) -> None:
    for _ in range(1000):
        totals = member.slot_totals().model_dump()
        if all(totals[name] == number for name, number in expected.items()):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(member.guard.report())


class ShyEnvironment(EchoEnvironment):
    """As many of OpenEnv's own: its reset takes nothing, and it is made for one session at a time."""

    SUPPORTS_CONCURRENT_SESSIONS = False

    def reset(self) -> EchoObservation:  # type: ignore[override]
        return EchoObservation(echo="shy")


class PickyEnvironment(EchoEnvironment):
    """Passes on what its reset is given to something that takes less."""

    def reset(self, **kwargs: Any) -> EchoObservation:  # type: ignore[override]
        return self._begin(**kwargs)

    def _begin(self, level: int = 0) -> EchoObservation:
        return EchoObservation(echo=f"level {level}")


class AsyncEnvironment(EchoEnvironment):
    """Has asynchronous methods of its own."""

    async def reset_async(self, seed: int | None = None, **kwargs: Any) -> EchoObservation:  # type: ignore[override]
        await asyncio.sleep(0)
        return EchoObservation(echo=f"later {seed}")


async def test_a_members_slots_are_what_its_server_can_hold() -> None:
    with real_server(ShyEnvironment, sessions=1) as url:
        async with hosted(url, slots=3) as member:
            await ready(member)
            await slots_are(member, total=1, free=1)
            assert all("holds 1 sessions" in reason for reason in member.guard.absent)
            for number in range(3):
                request = GrantRequest(lease_id=f"l{number}", key=f"k{number}", holder="agent", ttl=60, max_seconds=60)
                lease = member.grant(request)
                async with GenericEnvClient(base_url=f"{member.url}/leases/{lease.token}") as client:
                    assert (await client.reset(seed=1)).observation == {"echo": "shy"}
                member.release(lease.lease_id, Outcome.OK)
                await slots_are(member, free=1)
            assert not member.exhausted.is_set()


async def test_a_member_is_not_ready_while_others_hold_its_server() -> None:
    with real_server(ShyEnvironment, sessions=1) as url:
        async with hosted(url, slots=1) as first:
            await ready(first)
            async with hosted(url, slots=1) as second:
                await slots_are(second, provisioning=1)
                for _ in range(200):
                    if second.guard.report()[0].reason:
                        break
                    await asyncio.sleep(0.01)
                assert "they are in use" in second.guard.report()[0].reason
                assert not second.guard.started
                first.slots[0].close()
                await ready(second)


@pytest.mark.parametrize(
    ("environment", "text"), [(ShyEnvironment, "shy"), (PickyEnvironment, "level 2"), (AsyncEnvironment, "later 7")]
)
def test_reset_takes_the_arguments_that_the_environment_takes(environment: Any, text: str) -> None:
    module = environment.__module__
    config = {"observation": {"template": "{echo}"}}
    local = {**config, "action": f"{module}:EchoAction"}
    with real_server(environment, sessions=1) as url:
        sources = [EnvironmentSource(protocol="OpenEnv", entrypoint=url, config=config)]
        if environment is not PickyEnvironment:
            name = f"{module}:{environment.__name__}"
            sources.append(EnvironmentSource(protocol="OpenEnv", entrypoint=name, config=local))
        for source in sources:
            adapter = resolve(source).create()
            for _ in range(2):
                assert adapter.reset(7, {"level": 2}).text == text
            adapter.close()


async def test_a_restarted_server_costs_its_slots_one_verification() -> None:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(real_server())
        async with hosted(url, slots=3) as member:
            await ready(member)
            lease = member.grant(GrantRequest(lease_id="a", key="a", holder="agent", ttl=60, max_seconds=60))
            async with GenericEnvClient(base_url=f"{member.url}/leases/{lease.token}") as client:
                await client.reset(seed=1)
                await asyncio.to_thread(stack.close)
                await slots_are(member, provisioning=2, leased=1)
                with pytest.raises(RuntimeError, match="is gone"):
                    await client.step({"message": "hello"})
            member.release("a", Outcome.FAULT)
            await slots_are(member, provisioning=3)
            with real_server(port=int(url.rsplit(":", 1)[1])):
                await slots_are(member, free=3)
                async with GenericEnvClient(base_url=lease_url(member)) as client:
                    assert (await client.reset(seed=1)).observation == {"echo": "hello 1 0"}
            assert [slot.faults for slot in member.guard.report()] == [0, 0, 0]


async def test_a_server_whose_reset_fails_makes_no_slot_ready() -> None:
    class BrokenEnvironment(EchoEnvironment):
        def reset(self, **kwargs: Any) -> EchoObservation:  # type: ignore[override]
            raise FileNotFoundError("/data/tasks.json")

    with real_server(BrokenEnvironment) as url:
        async with hosted(url, slots=1) as member:
            await slots_are(member, quarantined=1)
            assert "/data/tasks.json" in member.guard.report()[0].reason


async def test_a_session_that_hangs_gives_its_place_back() -> None:
    free = threading.Event()

    class SlowEnvironment(EchoEnvironment):
        def step(self, action: EchoAction, timeout_s: float | None = None, **kwargs: Any) -> EchoObservation:
            free.wait(10)
            return super().step(action)

    with real_server(SlowEnvironment, sessions=1) as url:
        async with hosted(url, slots=1, step_timeout=0.2, lifecycle={"quarantine": 5}) as member:
            await ready(member)
            lease = member.grant(GrantRequest(lease_id="a", key="a", holder="agent", ttl=60, max_seconds=60))
            async with GenericEnvClient(base_url=f"{member.url}/leases/{lease.token}") as client:
                await client.reset()
                with pytest.raises(RuntimeError, match="did not end within"):
                    await client.step({"message": "hello"})
            free.set()
            member.release("a", Outcome.FAULT)
            await slots_are(member, free=1)


@pytest.mark.parametrize("way", ["root", "lease"])
async def test_openenvs_own_validation_passes(way: str) -> None:
    from openenv.cli._validation import validate_running_environment

    async with lake(opened=True, slots=2) as member:
        url = member.url if way == "root" else lease_url(member)
        report = await asyncio.to_thread(validate_running_environment, url)
        assert report["summary"]["failed_criteria"] == []
        assert (report["summary"]["passed_count"], report["summary"]["total_count"]) == (6, 6)


async def test_the_schema_names_required_fields() -> None:
    async with lake() as member, ServiceClient(lease_url(member)) as http:
        forms = (await http.call("GET", "/schema")).json()["action"]["anyOf"]
        assert [form["required"] for form in forms] == [["text"], ["value"]]
        assert forms[1]["properties"]["value"] == {"type": "integer", "minimum": 0, "maximum": 3}
    with real_server() as url:
        async with hosted(url, slots=1) as member:
            await ready(member)
            async with ServiceClient(lease_url(member)) as http:
                assert (await http.call("GET", "/schema")).json()["action"]["required"] == ["message"]


class EchoClient(EnvClient[EchoAction, EchoObservation, State]):
    """A typed client, written as OpenEnv's environments have theirs."""

    def _step_payload(self, action: EchoAction) -> dict[str, Any]:
        return action.model_dump()

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[EchoObservation]:
        observed = EchoObservation(**payload["observation"])
        return StepResult(observation=observed, reward=payload["reward"], done=payload["done"])

    def _parse_state(self, payload: dict[str, Any]) -> State:
        return State(**payload)


async def test_a_typed_client_reads_its_own_observations_through_a_lease() -> None:
    with real_server() as url:
        async with hosted(url, slots=1) as member:
            await ready(member)
            async with EchoClient(base_url=lease_url(member)) as client:
                assert (await client.reset(seed=4)).observation.echo == "hello 4 0"
                step = await client.step(EchoAction(message="bye"))
                assert (step.observation.echo, step.reward, step.done) == ("bye", 3.0, True)
                assert (await client.state()).step_count == 1


class ToolsEnvironment(MCPEnvironment):
    """Has one tool, and counts its uses."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        server = FastMCP("tools")
        self.uses = 0

        @server.tool
        def add(left: int, right: int) -> int:
            """Add two numbers."""
            self.uses += 1
            return left + right + 100 * (self.uses - 1)

        super().__init__(server)

    def reset(self, **kwargs: Any) -> Observation:
        self.uses = 0
        return Observation()

    def _step_impl(self, action: Action, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        return Observation()

    @property
    def state(self) -> State:
        return State()


async def test_an_environments_tools_are_listed_and_called_in_the_leases_session() -> None:
    with real_server(ToolsEnvironment, action=CallToolAction) as url:
        module = ToolsEnvironment.__module__
        own = {"action": "openenv.core.env_server.mcp_types:CallToolAction"}
        remote = EnvironmentSource(protocol="OpenEnv", entrypoint=url)
        local = EnvironmentSource(protocol="OpenEnv", entrypoint=f"{module}:ToolsEnvironment", config=own)
        for source in (remote, local):
            settings = EnvironmentConfig(environment=source, drain_seconds=0)
            member = Member(settings, Identity("member-0", "default", "127.0.0.1", "uid"), resolve(source))
            async with serving(make_service(member, None)) as address:
                member.url = address
                await ready(member)
                async with ServiceClient(lease_url(member)) as http:
                    await http.call("POST", "/reset", {})
                    listed = (await http.call("POST", "/mcp", rpc("tools/list"))).json()
                    assert [tool["name"] for tool in listed["result"]["tools"]] == ["add"]
                    call = rpc("tools/call", name="add", arguments={"left": 2, "right": 3})
                    answers = [(await http.call("POST", "/mcp", call)).json() for _ in range(2)]
                    assert "5" in str(answers[0]["result"])
                    assert "105" in str(answers[1]["result"])
                    missing = (await http.call("POST", "/mcp", rpc("tools/call"))).json()
                    assert "name" in missing["error"]["message"]


def rpc(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


async def test_an_environment_without_tools_says_so() -> None:
    async with lake() as member, ServiceClient(lease_url(member)) as http:
        answer = (await http.call("POST", "/mcp", rpc("tools/list"))).json()
        assert answer == {
            "jsonrpc": "2.0",
            "id": 1,
            "error": {"code": -32603, "message": "Environment does not support MCP"},
        }


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
