"""How long a lease is kept: until its guard says that it is over, or nothing has been heard for too long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from shoal.api.services.leases import Lease, LeaseRenewed
from shoal_workers.broker.client import BrokerClient
from shoal_workers.service import ProblemError
from shoal_workers.service.server import listen, url_of

TTL = 0.8
AWAY = ProblemError("unreachable", "nobody listens", status=503)


class FakeBroker(BrokerClient):
    """A broker that answers each renewal as `answer` says, by the number of those before."""

    def __init__(self, answer: Callable[[int], Awaitable[None]]) -> None:
        super().__init__("http://nowhere", holder="agent")
        self._answer = answer
        self.renewals = 0

    async def renew(self, lease: Lease, ttl: float | None = None, timeout: float | None = None) -> LeaseRenewed:
        self.renewals += 1
        await self._answer(self.renewals - 1)
        return LeaseRenewed(id=lease.id, expires_at=0.0)


def lease_of() -> Lease:
    texts = dict.fromkeys(("id", "key", "holder", "member", "variant", "environment_url", "token"), "x")
    return Lease(**texts, slot=0, ttl=TTL, heartbeat=TTL / 2, expires_at=0.0)  # type: ignore[arg-type]


async def test_silence_for_a_ttl_loses_no_lease() -> None:
    began = time.monotonic()

    async def away_for_a_while(_: int) -> None:
        if time.monotonic() - began < 1.5 * TTL:
            raise AWAY

    broker = FakeBroker(away_for_a_while)
    async with broker.keeping(lease_of()) as keeper:
        await asyncio.sleep(3 * TTL)
        assert not keeper.lost.is_set()


async def test_silence_without_end_loses_it() -> None:
    async def away(_: int) -> None:
        raise AWAY

    began = time.monotonic()
    async with FakeBroker(away).keeping(lease_of()) as keeper:
        await asyncio.wait_for(keeper.lost.wait(), 10)
    assert time.monotonic() - began >= 2 * TTL
    assert "nobody listens" in keeper.why


@pytest.mark.parametrize("name", ["lease-lost", "unknown-lease"])
async def test_the_guards_word_ends_it_at_once(name: str) -> None:
    async def over(_: int) -> None:
        raise ProblemError(name, "released", status=410)

    broker = FakeBroker(over)
    async with broker.keeping(lease_of()) as keeper:
        await asyncio.wait_for(keeper.lost.wait(), 10)
    assert broker.renewals == 1
    assert keeper.why == f"{name}: released"


async def test_an_unforeseen_failure_is_no_end_of_the_keeping() -> None:
    async def once(number: int) -> None:
        if number == 0:
            raise KeyError("unforeseen")

    broker = FakeBroker(once)
    async with broker.keeping(lease_of()) as keeper:
        await asyncio.sleep(2.5 * TTL)
        assert not keeper.lost.is_set()
    assert broker.renewals > 2


async def test_a_cancellation_at_the_end_of_the_block_is_not_swallowed() -> None:
    async def stubborn(_: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.2)

    async def hold() -> None:
        async with FakeBroker(stubborn).keeping(lease_of()):
            await asyncio.sleep(TTL)

    holding = asyncio.create_task(hold())
    await asyncio.sleep(TTL + 0.1)
    holding.cancel()
    await asyncio.wait({holding}, timeout=10)
    assert holding.cancelled()


async def test_a_broker_that_cannot_be_reached_is_not_one_without_free_slots() -> None:
    listener = listen("127.0.0.1", 0)
    url = url_of(listener)
    listener.close()
    async with BrokerClient(url, holder="h") as client:
        with pytest.raises(TimeoutError, match=r"the broker gave no answer .*unreachable"):
            await client.acquire("a", timeout=0.2)
