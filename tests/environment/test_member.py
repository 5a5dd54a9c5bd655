"""A member over real sockets: the four outcomes, the watchdog, the guard's routes, start-up and stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shoal.api.services.leases import (
    EnvironmentStatus,
    Grant,
    GrantRequest,
    GuardState,
    Outcome,
    Released,
    RetireRequest,
    SlotState,
)
from shoal.api.services.roles.environment import EnvironmentConfig, EnvironmentSource, LifecycleConfig
from shoal_workers.environment.adapter import (
    Backend,
    EnvironmentAdapter,
    GraderError,
    InvalidActionError,
    Observation,
    StartingError,
    Step,
)
from shoal_workers.environment.client import EnvironmentClient
from shoal_workers.environment.member import Member
from shoal_workers.environment.server import make_service
from shoal_workers.service import Identity, ProblemError, ServiceClient, serving
from shoal_workers.service.server import listen, url_of

TOKEN = "secret"


class FakeWorld:
    """What the fake environments of one test share."""

    def __init__(self) -> None:
        self.made = 0
        self.closed = 0
        self.failures_to_start = 0
        self.verify_fails = False
        self.threads: set[str] = set()
        self.hang = threading.Event()

    def create(self) -> EnvironmentAdapter:
        if self.failures_to_start > 0:
            self.failures_to_start -= 1
            raise StartingError("the container is still starting")
        self.made += 1
        return FakeEnvironment(self)


class FakeEnvironment(EnvironmentAdapter):
    """Does what the action's text says."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    def reset(self, seed: int | None, task: Mapping[str, Any]) -> Observation:
        self.world.threads.add(threading.current_thread().name)
        return Observation(f"seed {seed} task {dict(task)}", {"seed": seed})

    def step(self, action: Mapping[str, Any]) -> Step:
        text = action.get("text")
        if text == "malformed":
            raise InvalidActionError("not a move")
        if text == "grade":
            raise GraderError("the judge is out")
        if text == "crash":
            raise ZeroDivisionError("division by zero")
        if text == "hang":
            self.world.hang.wait(20)
        if text == "exit":
            sys.exit(3)
        if text in ("judge", "judge hangs", "judge fails"):
            return Step(Observation("done"), terminated=True, evaluate=lambda: self.judge(text))
        return Step(Observation(f"did {text}"), reward=None, truncated=text == "long", terminated=text == "end")

    def judge(self, text: str) -> float:
        if text == "judge hangs":
            self.world.hang.wait(20)
        return 1 / 2 if text != "judge fails" else 1 / 0

    def state(self) -> Mapping[str, Any]:
        return {"own": 1}

    def verify(self) -> None:
        if self.world.verify_fails:
            raise RuntimeError("the disk is dirty")

    def close(self) -> None:
        self.world.closed += 1


def make_member(world: FakeWorld, slots: int = 1, **options: Any) -> Member:
    life = options.pop("lifecycle", {})
    config = EnvironmentConfig(
        environment=EnvironmentSource(protocol="Fake"),
        slots=slots,
        lifecycle=LifecycleConfig(**life),
        **{"drain_seconds": 0.0, "step_timeout": 10.0} | options,
    )
    return Member(config, Identity("member-0", "default", "127.0.0.1", "uid"), Backend("fake", world.create))


@asynccontextmanager
async def served(member: Member) -> AsyncIterator[ServiceClient]:
    async with serving(make_service(member, TOKEN)) as url, ServiceClient(url, token=TOKEN, retries=0) as client:
        member.url = url
        for _ in range(400):
            if member.guard.started:
                break
            await asyncio.sleep(0.01)
        yield client


async def grant(client: ServiceClient, key: str, ttl: float = 30.0) -> Grant:
    request = GrantRequest(lease_id=f"id-{key}", key=key, holder="agent", ttl=ttl, max_seconds=100)
    return await client.post("/guard/grant", request, Grant)


async def slot_becomes(client: ServiceClient, state: SlotState, index: int = 0) -> None:
    for _ in range(400):
        if (await client.get("/guard", GuardState)).slots[index].state is state:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"slot {index} never became {state}")


async def test_reset_step_and_state() -> None:
    async with served(make_member(FakeWorld())) as client:
        lease = await grant(client, "a")
        async with EnvironmentClient(lease.environment_url) as environment:
            with pytest.raises(ProblemError, match="no-episode"):
                await environment.step("go")
            first = await environment.reset(seed=4, task={"level": 2}, episode_id="e-1")
            assert first.observation.text == "seed 4 task {'level': 2}"
            assert first.observation.data == {"seed": 4}
            step = await environment.step("go")
            assert (step.observation.text, step.reward, step.done) == ("did go", None, False)
            assert await environment.state() == {"episode_id": "e-1", "step_count": 1, "own": 1}
            last = await environment.step("long")
            assert (last.done, last.truncated, last.terminated) == (True, True, False)
            with pytest.raises(ProblemError, match="episode-over"):
                await environment.step("go")
            assert (await environment.reset()).observation.text == "seed None task {}"
            assert (await environment.step("end")).terminated


async def test_the_outcomes_are_different_things() -> None:
    member = make_member(FakeWorld())
    async with served(member) as client:
        lease = await grant(client, "a")
        async with EnvironmentClient(lease.environment_url) as environment:
            await environment.reset()
            await environment.step("go")
            malformed = await environment.step("malformed")
            assert malformed.invalid_action == "not a move"
            assert (malformed.reward, malformed.done, malformed.observation.text) == (None, False, "did go")
            with pytest.raises(ProblemError) as caught:
                await environment.step("grade")
            assert (caught.value.name, caught.value.detail) == ("grader-error", "the judge is out")
            assert (await environment.step("go")).invalid_action is None
            with pytest.raises(ProblemError) as caught:
                await environment.step("crash")
            assert caught.value.name == "environment-error"
            assert "ZeroDivisionError" in caught.value.detail
        await slot_becomes(client, SlotState.LEASED)
        reply = await client.delete("/guard/leases/id-a", params={"outcome": "ok"})
        assert reply.read(Released).state is SlotState.QUARANTINED
        report = member.environment_report()
        assert (report.steps, report.invalid_actions, report.errors) == (2, 1, 2)


async def test_a_hung_environment_is_left_behind() -> None:
    world = FakeWorld()
    member = make_member(world, step_timeout=0.2, lifecycle={"quarantine": 2})
    async with served(member) as client:
        lease = await grant(client, "a")
        async with EnvironmentClient(lease.environment_url) as environment:
            await environment.reset()
            with pytest.raises(ProblemError) as caught:
                await environment.step("hang")
            assert (caught.value.name, caught.value.extensions["reason"]) == ("environment-error", "hung")
        await client.delete("/guard/leases/id-a", params={"outcome": "fault"})
        await slot_becomes(client, SlotState.FREE)
        assert world.made == 2
        again = await grant(client, "b")
        async with EnvironmentClient(again.environment_url) as environment:
            await environment.reset()
            assert (await environment.step("go")).observation.text == "did go"
        world.hang.set()


async def test_a_slow_step_holds_up_no_other_slot() -> None:
    world = FakeWorld()
    async with served(make_member(world, slots=2)) as client:
        slow, quick = await grant(client, "slow"), await grant(client, "quick")
        async with EnvironmentClient(slow.environment_url) as one, EnvironmentClient(quick.environment_url) as other:
            await one.reset()
            await other.reset()
            waiting = asyncio.create_task(one.step("hang"))
            for _ in range(20):
                await other.step("go")
            assert not waiting.done()
            world.hang.set()
            assert (await waiting).observation.text == "did hang"
            assert (await one.step("go")).observation.text == "did go"


async def test_reset_step_and_grading_have_limits_of_their_own() -> None:
    world = FakeWorld()
    limits = {"step_timeout": 30.0, "reset_timeout": 30.0, "evaluate_timeout": 0.2}
    async with served(make_member(world, lifecycle={"quarantine": 9}, **limits)) as client:
        lease = await grant(client, "a")
        async with EnvironmentClient(lease.environment_url) as environment:
            await environment.reset()
            graded = await environment.step("judge")
            assert (graded.reward, graded.terminated) == (0.5, True)
            await environment.reset()
            with pytest.raises(ProblemError, match=r"grader-error: evaluate did not end within 0\.2 s"):
                await environment.step("judge hangs")
        world.hang.set()
        await client.delete("/guard/leases/id-a", params={"outcome": "fault"})
        await slot_becomes(client, SlotState.FREE)
        lease = await grant(client, "b")
        async with EnvironmentClient(lease.environment_url) as environment:
            await environment.reset()
            with pytest.raises(ProblemError, match="grader-error: evaluate: ZeroDivisionError"):
                await environment.step("judge fails")


async def test_an_environment_that_exits_breaks_its_slot_alone() -> None:
    async with served(make_member(FakeWorld(), slots=2, lifecycle={"quarantine": 2})) as client:
        lease, other = await grant(client, "a"), await grant(client, "b")
        async with EnvironmentClient(lease.environment_url) as environment:
            await environment.reset()
            with pytest.raises(ProblemError, match="environment-error: step: RuntimeError: SystemExit: 3"):
                await environment.step("exit")
        async with EnvironmentClient(other.environment_url) as environment:
            await environment.reset()
            assert (await environment.step("go")).observation.text == "did go"
        await client.delete("/guard/leases/id-a", params={"outcome": "fault"})
        await slot_becomes(client, SlotState.FREE, lease.slot)


async def test_an_instance_lives_on_after_a_clean_episode_only() -> None:
    world = FakeWorld()
    async with served(make_member(world)) as client:
        for key, outcome, made in (("a", "ok", 1), ("b", "dirty", 2), ("c", "ok", 2)):
            await grant(client, key)
            await client.delete(f"/guard/leases/id-{key}", params={"outcome": outcome})
            await slot_becomes(client, SlotState.FREE)
            assert world.made == made
        assert world.closed == 1


async def test_a_slot_that_fails_its_check_is_quarantined() -> None:
    world = FakeWorld()
    async with served(make_member(world)) as client:
        await grant(client, "a")
        world.verify_fails = True
        await client.delete("/guard/leases/id-a")
        await slot_becomes(client, SlotState.QUARANTINED)
        assert "the disk is dirty" in (await client.get("/guard", GuardState)).slots[0].reason


async def test_every_slot_has_a_thread_and_episodes_of_its_own() -> None:
    world = FakeWorld()
    member = make_member(world, slots=3)
    async with served(member) as client:
        leases = [await grant(client, key) for key in "abc"]
        with pytest.raises(ProblemError) as caught:
            await grant(client, "d")
        assert (caught.value.name, caught.value.status) == ("no-free-slot", 409)
        clients = [EnvironmentClient(lease.environment_url) for lease in leases]
        await asyncio.gather(*(environment.reset(seed=index) for index, environment in enumerate(clients)))
        assert world.threads == {"slot-0", "slot-1", "slot-2"}
        status = await client.get("/status", EnvironmentStatus)
        assert (status.slots.leased, status.environment.episodes) == (3, 3)
        metrics = (await client.call("GET", "/metrics")).body.decode()
        assert 'shoal_environment_slots{state="leased"} 3.0' in metrics
        for environment in clients:
            await environment.close()


async def test_readiness_waits_for_the_environment_and_says_why() -> None:
    world = FakeWorld()
    world.failures_to_start = 3
    member = make_member(world)
    async with serving(make_service(member, TOKEN)) as url, ServiceClient(url, retries=0) as client:
        reasons = set()
        for _ in range(400):
            try:
                await client.call("GET", "/readyz")
                break
            except ProblemError as error:
                reasons.add(error.detail)
            await asyncio.sleep(0.02)
        else:
            raise AssertionError(reasons)
        assert "the container is still starting" in reasons


async def test_guard_routes_need_the_token_and_leases_their_own() -> None:
    async with served(make_member(FakeWorld())) as client, ServiceClient(client.base_url) as stranger:
        for method, path in (("POST", "/guard/grant"), ("GET", "/guard"), ("POST", "/guard:retire")):
            with pytest.raises(ProblemError, match="unauthorized"):
                await stranger.call(method, path)
        with pytest.raises(ProblemError, match="lease-expired"):
            await stranger.call("POST", "/leases/guess/reset", {})


async def test_requests_that_make_no_sense_name_the_field() -> None:
    async with served(make_member(FakeWorld())) as client:
        lease = await grant(client, "a")
        path = lease.environment_url.removeprefix(client.base_url)
        for body, message in (
            ({"seed": -1}, "seed: Input should be greater"),
            ({"seed": "x"}, "seed: Input should be a valid integer"),
            ([], "the body must be a JSON object"),
        ):
            with pytest.raises(ProblemError, match=message):
                await client.call("POST", f"{path}/reset", body)
        with pytest.raises(ProblemError, match="action: Field required"):
            await client.call("POST", f"{path}/step", {})
        with pytest.raises(ProblemError, match="slots"):
            await client.call("POST", "/guard:retire", {"slots": "some"})
        retired = await client.call("POST", "/guard:retire", RetireRequest(drain=True))
        assert retired.json()["leased"] == 1
        reply = await client.delete("/guard/leases/id-a", params={"outcome": Outcome.OK.value})
        assert reply.read(Released).state is SlotState.RETIRED


async def test_a_stop_waits_for_the_leases_within_its_time() -> None:
    member = make_member(FakeWorld(), drain_seconds=10.0)
    service = make_service(member, TOKEN)
    async with serving(service) as url, ServiceClient(url, token=TOKEN) as client:
        member.url = url
        await slot_becomes(client, SlotState.FREE)
        lease = await grant(client, "a")
        stop = asyncio.create_task(service.begin_stop())
        await asyncio.sleep(0.1)
        assert not stop.done()
        async with EnvironmentClient(lease.environment_url) as environment:
            await environment.reset()
        await client.delete("/guard/leases/id-a")
        await asyncio.wait_for(stop, 5)


def start(tmp_path: Path, environment: dict[str, Any], port: int = 0, **options: Any) -> subprocess.Popen[str]:
    variables = os.environ | {
        "SHOAL_CONFIG": json.dumps({"port": port, "environment": environment, "slots": 2} | options),
        "SHOAL_TERMINATION_LOG": str(tmp_path / "termination"),
        "POD_IP": "127.0.0.1",
        "POD_NAME": "member-0",
    }
    command = [sys.executable, "-m", "shoal_workers.environment"]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_missing_environment_ends_the_process_with_one_line(tmp_path: Path) -> None:
    process = start(tmp_path, {"protocol": "Gymnasium", "entrypoint": "no_such_module:make"})
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.startswith("environment: environment.entrypoint: cannot import 'no_such_module'")
    assert len(errors.splitlines()) == 1
    assert (tmp_path / "termination").read_text() == errors.strip()


async def test_the_process_serves_and_stops(tmp_path: Path) -> None:
    listener = listen("127.0.0.1", 0)
    url = url_of(listener)
    listener.close()
    port = int(url.rsplit(":", 1)[1])
    process = start(tmp_path, {"protocol": "Gymnasium", "entrypoint": "FrozenLake-v1"}, port)
    try:
        async with ServiceClient(url, retries=60) as client:
            await client.call("GET", "/readyz")
            lease = await grant(client, "a")
            async with EnvironmentClient(lease.environment_url) as environment:
                assert (await environment.reset(seed=1)).observation.text == "0"
                assert (await environment.step("1")).reward == 0.0
            await client.delete("/guard/leases/id-a")
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.to_thread(process.communicate, timeout=30)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, "")


async def test_an_ephemeral_member_ends_when_its_slots_are_used_up(tmp_path: Path) -> None:
    listener = listen("127.0.0.1", 0)
    url = url_of(listener)
    listener.close()
    source = {"protocol": "Gymnasium", "entrypoint": "FrozenLake-v1"}
    process = start(tmp_path, source, int(url.rsplit(":", 1)[1]), lifecycle={"mode": "Ephemeral"})
    try:
        async with ServiceClient(url, retries=60) as client:
            await client.call("GET", "/readyz")
            for key in ("a", "b"):
                await grant(client, key)
                reply = await client.delete(f"/guard/leases/id-{key}")
                assert reply.read(Released).state is SlotState.RETIRED
        _, errors = await asyncio.to_thread(process.communicate, timeout=30)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, "")
