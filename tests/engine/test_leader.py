"""Leader election: the rule, two candidates on a real API server, and a leader that can't renew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shoal.engine.leader import Holder, LeaderElector, LeadershipLostError, LeaseTimes, Move, decide
from shoal.kube import KubeClient, kubeconfig_source
from shoal.kube.errors import AlreadyExistsError, ConflictError, NotFoundError, UnavailableError
from shoal.kube.resources import LEASES
from tests.engine.fake_clock import FakeClock
from tests.engine.waiting import until
from tests.kubernetes import Kubernetes

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("holder", "seen_at", "now", "move"),
    [
        (Holder("me", 15, 0), 0, 100, Move.RENEW),
        (Holder("", 15, 0), 0, 1, Move.TAKE),
        (Holder("other", 15, 0), 10, 24.9, Move.WAIT),
        (Holder("other", 15, 0), 10, 25, Move.TAKE),
    ],
)
def test_a_lease_is_abandoned_when_it_has_not_changed_for_its_duration(
    holder: Holder, seen_at: float, now: float, move: Move
) -> None:
    assert decide(holder, seen_at, "me", now) is move


def test_times_that_could_have_two_leaders_are_refused() -> None:
    with pytest.raises(ValueError, match="duration > renew_deadline"):
        LeaseTimes(duration=10, renew_deadline=10)


class FakeLeases:
    """The two or three calls an elector makes, on one lease in memory, with versions and switchable faults."""

    def __init__(self) -> None:
        self.lease: Json | None = None
        self.version = 0
        self.cut_off: set[str] = set()

    def client(self, who: str) -> Any:
        return FakeLeaseClient(self, who)


class FakeLeaseClient:
    def __init__(self, leases: FakeLeases, who: str) -> None:
        self._leases = leases
        self._who = who

    def _reach(self) -> None:
        if self._who in self._leases.cut_off:
            raise UnavailableError("no route to host")

    async def get(self, *_: object) -> Json:
        self._reach()
        if self._leases.lease is None:
            raise NotFoundError("no lease", status=404)
        return self._leases.lease

    async def create(self, _: object, body: Json, __: object) -> Json:
        self._reach()
        if self._leases.lease is not None:
            raise AlreadyExistsError("exists", status=409)
        return self._store(body)

    async def replace(self, _: object, body: Json, __: object) -> Json:
        self._reach()
        if body["metadata"]["resourceVersion"] != str(self._leases.version):
            raise ConflictError("changed", status=409)
        return self._store(body)

    def _store(self, body: Json) -> Json:
        self._leases.version += 1
        metadata = {**body["metadata"], "resourceVersion": str(self._leases.version)}
        self._leases.lease = {**body, "metadata": metadata}
        return self._leases.lease


class Candidate:
    """An elector whose work is to note that it leads."""

    def __init__(self, client: Any, who: str, log: list[str], **options: Any) -> None:
        self.elector = LeaderElector(client, namespace="n", identity=who, **options)
        self.who = who
        self.log = log
        self.task: asyncio.Task[None] | None = None

    async def lead(self) -> None:
        self.log.append(f"{self.who} leads")
        try:
            await asyncio.Event().wait()
        finally:
            self.log.append(f"{self.who} stops")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Candidate]:
        self.task = asyncio.create_task(self.elector.run(self.lead))
        try:
            yield self
        finally:
            self.task.cancel()
            await asyncio.wait({self.task})


async def test_a_cut_off_leader_stops_before_another_begins() -> None:
    clock, leases, log = FakeClock(), FakeLeases(), []  # type: ignore[var-annotated]
    a, b = (Candidate(leases.client(who), who, log, clock=clock) for who in "ab")
    async with a.running():
        await clock.advance(1)
        async with b.running():
            await clock.advance(30)
            assert log == ["a leads"]
            leases.cut_off.add("a")
            both = 0
            for _ in range(80):
                await clock.advance(0.25, step=0.05)
                both += a.elector.leading and b.elector.leading
            assert log == ["a leads", "a stops", "b leads"]
            assert both == 0
            assert a.task is not None
            with pytest.raises(LeadershipLostError):
                await a.task


@pytest.mark.parametrize("moment", range(9))
async def test_a_dead_leader_is_replaced_within_its_lease_and_one_look(moment: float) -> None:
    clock, leases, log = FakeClock(), FakeLeases(), []  # type: ignore[var-annotated]
    times = LeaseTimes(duration=15, renew_deadline=10, retry=9)
    a, b = (Candidate(leases.client(who), who, log, clock=clock, times=times) for who in "ab")
    async with a.running():
        await clock.advance(1)
        async with b.running():
            await clock.advance(40 + moment, step=0.05)
            assert a.task is not None
            leases.cut_off.add("a")  # whatever it writes when it ends does not arrive, as after SIGKILL
            died = clock.now()
            while not b.elector.leading:
                await clock.advance(0.05, step=0.05)
                assert clock.now() - died < 15 + 1.2 * 9 + 0.3


async def test_leading_ends_by_the_clock_even_if_nothing_runs() -> None:
    clock, leases, log = FakeClock(), FakeLeases(), []  # type: ignore[var-annotated]
    a = Candidate(leases.client("a"), "a", log, clock=clock)
    async with a.running():
        await clock.advance(1)
        assert a.elector.leading
        a.elector.fence("pods")
        leases.cut_off.add("a")
        clock.jump(10.5)  # a blocked event loop: no task got a turn
        assert not a.elector.leading
        with pytest.raises(LeadershipLostError, match="pods are not written"):
            a.elector.fence("pods")
        a.elector.fence(str(LEASES))


async def test_a_short_outage_costs_no_leadership() -> None:
    clock, leases, log = FakeClock(), FakeLeases(), []  # type: ignore[var-annotated]
    a = Candidate(leases.client("a"), "a", log, clock=clock)
    async with a.running():
        await clock.advance(1)
        leases.cut_off.add("a")
        await clock.advance(6)
        leases.cut_off.clear()
        await clock.advance(30)
        assert log == ["a leads"]


async def test_a_dead_leader_is_replaced_within_twenty_seconds() -> None:
    clock, leases, log = FakeClock(), FakeLeases(), []  # type: ignore[var-annotated]
    a, b = (Candidate(leases.client(who), who, log, clock=clock) for who in "ab")
    async with b.running():
        await clock.advance(1)
        async with a.running():
            await clock.advance(10)
            # Killed: it neither renews nor releases.
            leases.cut_off.add("b")
            started = clock.now()
            while "a leads" not in log:
                await clock.advance(0.5)
            assert clock.now() - started <= 20


async def test_two_candidates_on_a_real_api_server(kubernetes: Kubernetes) -> None:
    times = LeaseTimes(duration=3, renew_deadline=2, retry=0.2)
    log: list[str] = []
    source = kubeconfig_source(kubernetes.kubeconfig)
    async with KubeClient(source) as first, KubeClient(source) as second:
        a = Candidate(first, "a", log, times=times)
        b = Candidate(second, "b", log, times=times)
        a.elector._namespace = b.elector._namespace = kubernetes.namespace
        async with b.running():
            async with a.running():
                await until(lambda: len(log) == 1)
                await asyncio.sleep(1)
                assert len(log) == 1
                leader = a if a.elector.leading else b
                other = b if leader is a else a
                lease = await first.get(LEASES, "shoal-operator", kubernetes.namespace)
                assert lease["spec"]["holderIdentity"] == leader.who
                assert leader.task is not None
                leader.task.cancel()
                # It gave the lease up, so the other need not wait for it to expire.
                async with asyncio.timeout(2):
                    await until(lambda: len(log) == 3)
            assert log[:3] == [f"{leader.who} leads", f"{leader.who} stops", f"{other.who} leads"]
        lease = await first.get(LEASES, "shoal-operator", kubernetes.namespace)
        assert lease["spec"].get("holderIdentity", "") == ""
        assert lease["spec"]["leaseTransitions"] == 1
