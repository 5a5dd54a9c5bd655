"""Episodes end with their lease; what else ends them is not mistaken for that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from shoal.api.services.leases import Lease, Outcome
from shoal.api.services.roles.agent import AgentConfig
from shoal.api.services.trajectories import Assignment, EpisodeOutcome
from shoal_workers.agent.episode import EpisodeRun, Services
from shoal_workers.agent.harness import EpisodeEnd, EpisodeFaultError
from shoal_workers.agent.held import LeaseLostError, while_held
from shoal_workers.broker.client import LeaseKeeper
from shoal_workers.service import ServiceClient, open_session
from tests.agent.stage import stage

ONE_GROUP: dict[str, Any] = {"max_staleness": 0, "batch_groups": 1}


def keeper_of() -> LeaseKeeper:
    texts = dict.fromkeys(("id", "key", "holder", "member", "variant", "environment_url", "token"), "x")
    return LeaseKeeper(Lease(**texts, slot=0, ttl=1.0, heartbeat=1.0, expires_at=0.0))  # type: ignore[arg-type]


class Play:
    """A play that waits to be told how to end, and remembers whether it was cancelled."""

    def __init__(self, end: Callable[[], Awaitable[str]] | None = None) -> None:
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.cancelled = False
        self._end = end

    async def run(self) -> str:
        self.begun.set()
        try:
            await self.go.wait()
            return await self._end() if self._end else "won"
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def test_a_play_that_ends_is_its_result() -> None:
    play = Play()
    play.go.set()
    assert await while_held(keeper_of(), play.run()) == "won"


async def test_a_plays_failure_is_its_own() -> None:
    async def fail() -> str:
        raise ZeroDivisionError

    play = Play(fail)
    play.go.set()
    with pytest.raises(ZeroDivisionError):
        await while_held(keeper_of(), play.run())


async def test_a_lost_lease_ends_the_play() -> None:
    keeper, play = keeper_of(), Play()
    held = asyncio.create_task(while_held(keeper, play.run()))
    await play.begun.wait()
    keeper.why = "expired"
    keeper.lost.set()
    with pytest.raises(LeaseLostError, match="lease lost: expired") as caught:
        await held
    assert caught.value.outcome is EpisodeOutcome.ENVIRONMENT_ERROR
    assert play.cancelled


async def test_a_play_that_ends_as_its_lease_is_lost_counts() -> None:
    keeper, play = keeper_of(), Play()
    held = asyncio.create_task(while_held(keeper, play.run()))
    await play.begun.wait()
    play.go.set()
    keeper.lost.set()
    assert await held == "won"


@pytest.mark.parametrize("lost", [False, True])
async def test_a_cancellation_from_outside_stays_one(lost: bool) -> None:
    keeper, play = keeper_of(), Play()
    held = asyncio.create_task(while_held(keeper, play.run()))
    await play.begun.wait()
    if lost:
        keeper.lost.set()
    held.cancel()
    await asyncio.wait({held}, timeout=10)
    assert held.cancelled()
    assert play.cancelled


async def test_a_cancellation_while_the_play_is_being_ended_stays_one() -> None:
    async def linger() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.2)
        return ""

    keeper, play = keeper_of(), Play(linger)
    play.go.set()
    held = asyncio.create_task(while_held(keeper, play.run()))
    await play.begun.wait()
    keeper.lost.set()
    await asyncio.sleep(0.05)
    held.cancel()
    await asyncio.wait({held}, timeout=10)
    assert held.cancelled()


async def test_a_play_that_cancels_itself_is_the_agents_error() -> None:
    async def give_up() -> str:
        raise asyncio.CancelledError

    play = Play(give_up)
    play.go.set()
    with pytest.raises(EpisodeFaultError, match="cancelled its own") as caught:
        await while_held(keeper_of(), play.run())
    assert caught.value.outcome is EpisodeOutcome.AGENT_ERROR


class FakeBroker:
    """Leases one environment, and loses it as soon as an episode is in it."""

    def __init__(self) -> None:
        self.released: list[Outcome] = []

    async def acquire(self, key: str, *, task: str) -> Lease:
        return keeper_of().lease

    async def release(self, lease: Lease, outcome: Outcome) -> None:
        self.released.append(outcome)

    @contextlib.asynccontextmanager
    async def keeping(self, lease: Lease) -> AsyncIterator[LeaseKeeper]:
        keeper = keeper_of()
        keeper.why = "silence"
        keeper.lost.set()
        yield keeper


class FakeDuties:
    """Hears of faults."""

    def __init__(self) -> None:
        self.faults: list[tuple[EpisodeOutcome, str]] = []

    async def fail(self, assignment: Assignment, outcome: EpisodeOutcome, detail: str) -> None:
        self.faults.append((outcome, detail))


class FakeHarness:
    """Plays for ever."""

    async def play(self, episode: object) -> EpisodeEnd:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_lease_lost_by_silence_is_no_fault_of_its_slot() -> None:
    """The guard may still hold it, and would quarantine the slot for an environment that broke."""
    broker, duties = FakeBroker(), FakeDuties()
    pools = [{"name": "lake", "broker_url": "b", "credential": "p"}]
    config = AgentConfig.model_validate({"model": "m", "data_url": "d", "gateway_url": "g", "pools": pools})
    async with open_session() as session:
        services = Services(
            duties=duties,  # type: ignore[arg-type]
            gateway=ServiceClient("http://g", session=session),
            brokers={"lake": broker},  # type: ignore[dict-item]
            session=session,
            harness=FakeHarness(),
            config=config,
            stop_token_ids=(),
        )
        assignment = Assignment(id="a", task_id="t", group_id="g", environment="lake")
        assert await EpisodeRun(services, assignment).run() is EpisodeOutcome.ENVIRONMENT_ERROR
    assert broker.released == [Outcome.DIRTY]
    assert duties.faults == [(EpisodeOutcome.ENVIRONMENT_ERROR, "lease lost: silence")]


async def test_an_episode_without_its_lease_makes_no_more_model_calls(tmp_path: Path) -> None:
    async with stage(tmp_path, **ONE_GROUP) as scene:
        scene.gateway.gate.clear()
        async with scene.agent(concurrency=1):
            await scene.until(lambda: scene.gateway.requests)
            (lease,) = scene.member.guard.leases
            scene.member.release(lease.lease_id, Outcome.DIRTY)
            # Its model call is never answered.
            await scene.fault("environment_error")
        assert [slot.faults for slot in scene.member.guard.report()] == [0] * 4
        await scene.all_released()
        scene.gateway.gate.set()
