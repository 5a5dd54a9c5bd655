"""Grants that go wrong or come late: no request waits for ever, and no slot is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from shoal.api.services.leases import (
    Grant,
    GrantRequest,
    Lease,
    LeaseQueued,
    LeaseRequest,
    MemberReport,
    SlotReport,
    SlotState,
)
from shoal.api.services.roles.broker import BrokerConfig
from shoal_workers.broker.broker import GRANT_TRIES, Broker
from shoal_workers.broker.guards import Guards

GUARD_TIMEOUT = 0.1


class FakeGuards(Guards):
    """Guards that answer as the test says."""

    def __init__(self, answer: Callable[[GrantRequest], Awaitable[Grant]]) -> None:
        super().__init__(None, GUARD_TIMEOUT)
        self._answer = answer
        self.asked: list[str] = []

    async def grant(self, url: str, request: GrantRequest) -> Grant:
        self.asked.append(url)
        return await self._answer(request)


def granted(request: GrantRequest) -> Grant:
    """The guard's answer: slot 0 is leased."""
    return Grant(
        lease_id=request.lease_id,
        key=request.key,
        holder=request.holder,
        slot=0,
        environment_url="http://m/leases/t",
        token="t",
        expires_at=time.time() + 30,
        revision=1,
        started_at=0.0,
    )


def report(name: str) -> MemberReport:
    """A member with one free slot."""
    slots = [SlotReport(index=0, state=SlotState.FREE)]
    return MemberReport(name=name, uid="", url=f"http://{name}", slots=slots)


def broker_of(answer: Callable[[GrantRequest], Awaitable[Grant]], *members: str) -> tuple[Broker, FakeGuards]:
    guards = FakeGuards(answer)
    broker = Broker(BrokerConfig(guard_timeout=GUARD_TIMEOUT), guards)
    for name in members:
        broker.report(report(name))
    return broker, guards


def wanted(wait: float = 0.0) -> LeaseRequest:
    return LeaseRequest(key="k", holder="agent", wait=wait)


async def test_whatever_a_grant_fails_with_the_request_is_tried_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    failures: list[Exception] = [KeyError("unforeseen")]

    async def answer(request: GrantRequest) -> Grant:
        if failures:
            raise failures.pop()
        return granted(request)

    broker, guards = broker_of(answer, "one", "two")
    lease = await asyncio.wait_for(broker.lease(wanted(5)), 5)
    assert isinstance(lease, Lease)
    assert sorted(guards.asked) == ["http://one", "http://two"]
    assert [row.reserved for row in broker.ledger.members.values()] == [0, 0]
    assert [row.report.name for row in broker.ledger.members.values() if row.suspect] != [lease.member]
    assert any(record.exc_info for record in caplog.records)


async def test_a_member_whose_grant_failed_is_asked_again_when_it_reports() -> None:
    failures: list[Exception] = [KeyError("unforeseen")]

    async def answer(request: GrantRequest) -> Grant:
        if failures:
            raise failures.pop()
        return granted(request)

    broker, _ = broker_of(answer, "one")
    assert isinstance(await asyncio.wait_for(broker.lease(wanted()), 5), LeaseQueued)
    entry = broker.queue.get("k")
    assert entry is not None
    assert not entry.granting
    poll = asyncio.create_task(broker.lease(wanted(5)))
    await asyncio.sleep(0)
    broker.report(report("one"))
    assert isinstance(await asyncio.wait_for(poll, 5), Lease)


async def test_a_late_grant_is_the_next_polls() -> None:
    arrived = asyncio.Event()

    async def answer(request: GrantRequest) -> Grant:
        await arrived.wait()
        return granted(request)

    broker, guards = broker_of(answer, "one")
    began = time.monotonic()
    assert isinstance(await asyncio.wait_for(broker.lease(wanted()), 5), LeaseQueued)
    assert time.monotonic() - began < GRANT_TRIES * GUARD_TIMEOUT + 2
    # Polls that come while it is under way share it, and ask for no second slot.
    second = asyncio.create_task(broker.lease(wanted(5)))
    await asyncio.sleep(0.05)
    arrived.set()
    lease = await asyncio.wait_for(second, 5)
    assert isinstance(lease, Lease)
    assert await broker.lease(wanted()) == lease
    assert len(guards.asked) == 1


async def test_a_late_grant_waits_for_the_next_poll() -> None:
    arrived = asyncio.Event()

    async def answer(request: GrantRequest) -> Grant:
        await arrived.wait()
        return granted(request)

    broker, guards = broker_of(answer, "one")
    assert isinstance(await asyncio.wait_for(broker.lease(wanted()), 5), LeaseQueued)
    arrived.set()
    await asyncio.sleep(0.05)
    assert len(broker.queue) == 0
    assert broker.ledger.members["one"].reserved == 0
    assert isinstance(await asyncio.wait_for(broker.lease(wanted()), 5), Lease)
    assert len(guards.asked) == 1
