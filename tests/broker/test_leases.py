"""Broker and members together over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from shoal.api.services.leases import BrokerStatus, GrantRequest, Lease, LeaseQueued, Outcome, RetireRequest, SlotState
from shoal.api.services.roles.broker import BrokerConfig
from shoal.api.services.roles.environment import EnvironmentConfig, EnvironmentSource, LifecycleConfig
from shoal_workers.broker.client import BrokerClient
from shoal_workers.broker.server import make_service as make_broker
from shoal_workers.environment.adapter import Backend, EnvironmentAdapter, Observation, Step
from shoal_workers.environment.client import EnvironmentClient
from shoal_workers.environment.member import Member
from shoal_workers.environment.server import make_service as make_member
from shoal_workers.service import Identity, ProblemError, ServiceClient, serving
from shoal_workers.service.server import listen, url_of

TOKEN = "secret"
MEMBER_TOKEN = "a member's"


class FakeEnvironment(EnvironmentAdapter):
    """Counts steps; the text `break` breaks it."""

    def __init__(self) -> None:
        self.count = 0

    def reset(self, seed: int | None, task: Mapping[str, Any]) -> Observation:
        self.count = 0
        return Observation(f"count 0 seed {seed}")

    def step(self, action: Mapping[str, Any]) -> Step:
        if action.get("text") == "break":
            raise RuntimeError("broken glass")
        self.count += 1
        return Step(Observation(f"count {self.count}"), reward=1.0, terminated=self.count == 3)

    def close(self) -> None:
        return


def free_url() -> tuple[str, int]:
    listener = listen("127.0.0.1", 0)
    url = url_of(listener)
    listener.close()
    return url, int(url.rsplit(":", 1)[1])


class Pool:
    """A broker and members, each of which can be stopped and started."""

    def __init__(self, **broker: Any) -> None:
        self.url, self.port = free_url()
        settings = {"ttl": 5.0, "heartbeat": 1.0, "report_seconds": 0.2, "guard_timeout": 1.0} | broker
        self.config = BrokerConfig(port=self.port, **settings)
        self.members: dict[str, Member] = {}
        self.stacks: dict[str, AsyncExitStack] = {}

    async def __aenter__(self) -> Pool:
        await self.start_broker()
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in list(self.stacks):
            await self.stop(name)

    async def start_broker(self) -> None:
        await self._start("broker", serving(make_broker(self.config, TOKEN, MEMBER_TOKEN), port=self.port))

    async def start_member(self, name: str, slots: int = 1, variant: str = "default", **life: Any) -> Member:
        url, port = free_url()
        config = EnvironmentConfig(
            port=port,
            pool="pool",
            variant=variant,
            environment=EnvironmentSource(protocol="Fake"),
            slots=slots,
            lifecycle=LifecycleConfig(**life),
            broker_url=self.url,
            report_seconds=0.2,
            drain_seconds=0.0,
        )
        identity = Identity(name, "default", "127.0.0.1", f"uid-{name}")
        member = Member(config, identity, Backend("fake", FakeEnvironment))
        member.url = url
        self.members[name] = member
        await self._start(name, serving(make_member(member, MEMBER_TOKEN), port=port))
        await self.until(lambda status: any(row.name == name and row.slots.free == slots for row in status.members))
        return member

    async def _start(self, name: str, context: Any) -> None:
        stack = AsyncExitStack()
        await stack.enter_async_context(context)
        self.stacks[name] = stack

    async def stop(self, name: str) -> None:
        await self.stacks.pop(name).aclose()

    async def status(self) -> BrokerStatus:
        async with ServiceClient(self.url) as client:
            return await client.get("/status", BrokerStatus)

    async def until(self, condition: Callable[[BrokerStatus], bool]) -> BrokerStatus:
        for _ in range(400):
            status = await self.status()
            if condition(status):
                return status
            await asyncio.sleep(0.025)
        raise AssertionError(f"never: {status}")

    def agent(self, holder: str = "agent") -> BrokerClient:
        return BrokerClient(self.url, holder=holder, token=TOKEN)


@asynccontextmanager
async def pool_of(*slots: int, **broker: Any) -> AsyncIterator[Pool]:
    async with Pool(**broker) as pool:
        for index, count in enumerate(slots):
            await pool.start_member(f"member-{index}", count)
        yield pool


async def test_an_episode_from_lease_to_release() -> None:
    async with pool_of(2) as pool, pool.agent() as agent:
        lease = await agent.acquire("episode-1", task="task-1", timeout=10)
        async with EnvironmentClient(lease.environment_url) as environment:
            first = await environment.reset(seed=7)
            assert first.observation.text == "count 0 seed 7"
            steps = [await environment.step("go") for _ in range(3)]
        assert [step.reward for step in steps] == [1.0, 1.0, 1.0]
        assert [step.done for step in steps] == [False, False, True]
        assert (await agent.renew(lease)).expires_at >= lease.expires_at
        await agent.release(lease)
        status = await pool.until(lambda status: status.slots.free == 2)
        assert (status.grants, status.releases, status.expiries, status.slots.leased) == (1, 1, 0, 0)
        assert (status.episodes, status.steps) == (1, 3)
        assert 0 < status.active_seconds < status.occupied_seconds


async def test_the_same_key_is_the_same_lease() -> None:
    async with pool_of(2) as pool, pool.agent() as agent:
        leases = await asyncio.gather(*(agent.acquire("same", timeout=10) for _ in range(5)))
        assert len({lease.id for lease in leases}) == 1
        assert (await pool.status()).grants == 1


async def test_requests_queue_in_order_and_say_where_they_stand() -> None:
    async with pool_of(1) as pool, pool.agent() as agent:
        held = await agent.acquire("first", timeout=10)
        order: list[str] = []

        async def take(key: str) -> None:
            lease = await agent.acquire(key, timeout=20)
            order.append(key)
            await agent.release(lease)

        tasks = []
        for index, key in enumerate(["a", "b", "c"]):
            queued = await agent.ask(key)
            assert isinstance(queued, LeaseQueued)
            assert queued.position == index
            tasks.append(asyncio.create_task(take(key)))
        await pool.until(lambda status: status.queued == 3)
        await agent.release(held)
        await asyncio.gather(*tasks)
        assert order == ["a", "b", "c"]


async def test_a_full_queue_refuses() -> None:
    async with pool_of(1, queue_limit=1) as pool, pool.agent() as agent:
        held = await agent.acquire("first", timeout=10)
        assert isinstance(await agent.ask("second"), LeaseQueued)
        with pytest.raises(ProblemError) as caught:
            await agent.ask("third")
        assert (caught.value.name, caught.value.status) == ("queue-full", 429)
        await agent.release(held)
        assert (await agent.acquire("second", timeout=10)).key == "second"
        assert (await pool.status()).refused == 1


async def test_nothing_is_leased_to_an_agent_that_is_gone() -> None:
    async with pool_of(1) as pool, pool.agent() as agent:
        held = await agent.acquire("first", timeout=10)
        async with pool.agent("dies") as dying:
            poll = asyncio.create_task(dying.ask("gone", wait=30))
            await pool.until(lambda status: status.queued == 1)
            await asyncio.sleep(0.2)
            poll.cancel()
            await asyncio.gather(poll, return_exceptions=True)
        await asyncio.sleep(0.2)
        await agent.release(held)
        status = await pool.until(lambda status: status.slots.free == 1)
        assert (status.grants, status.queued) == (1, 1)


async def test_variants_are_matched() -> None:
    async with Pool() as pool, pool.agent() as agent:
        await pool.start_member("red-0", 1, "red")
        await pool.start_member("blue-0", 1, "blue")
        blue = await agent.acquire("a", variant="blue", timeout=10)
        assert (blue.member, blue.variant) == ("blue-0", "blue")
        assert isinstance(await agent.ask("b", variant="blue"), LeaseQueued)
        assert (await agent.acquire("c", timeout=10)).member == "red-0"
        status = await pool.status()
        assert status.variants["blue"].queued == 1
        assert status.variants["red"].slots.leased == 1


async def test_a_lease_without_heartbeat_expires_and_is_lost() -> None:
    async with pool_of(1) as pool, pool.agent() as agent:
        lease = await agent.acquire("dies", ttl=0.3, timeout=10)
        status = await pool.until(lambda status: status.expiries == 1 and status.slots.free == 1)
        assert status.slots.leased == 0
        with pytest.raises(ProblemError) as caught:
            await agent.renew(lease)
        assert caught.value.name == "lease-lost"
        async with EnvironmentClient(lease.environment_url) as environment:
            with pytest.raises(ProblemError) as caught:
                await environment.reset()
        assert (caught.value.name, caught.value.status) == ("lease-expired", 410)
        await agent.release(lease)


async def test_a_kept_lease_outlives_its_ttl() -> None:
    async with pool_of(1) as pool, pool.agent() as agent:
        lease = await agent.acquire("kept", ttl=0.5, timeout=10)
        async with agent.keeping(lease) as keeper:
            await asyncio.sleep(1.2)
            assert not keeper.lost.is_set()
            pool.members["member-0"].release(lease.id, Outcome.DIRTY)
            await asyncio.wait_for(keeper.lost.wait(), 10)


async def test_a_broken_environment_is_an_error_and_its_slot_is_quarantined() -> None:
    async with pool_of(1) as pool, pool.agent() as agent:
        lease = await agent.acquire("a", timeout=10)
        async with EnvironmentClient(lease.environment_url) as environment:
            await environment.reset()
            for reason in ("exception", "broken"):
                with pytest.raises(ProblemError) as caught:
                    await environment.step("break")
                assert caught.value.name == "environment-error"
                assert caught.value.extensions["reason"] == reason
        await agent.release(lease, Outcome.OK)
        status = await pool.until(lambda status: status.slots.quarantined == 1 and status.errors == 1)
        assert "broken glass" in status.members[0].last_error


async def test_the_ledger_is_rebuilt_after_a_restart() -> None:
    async with pool_of(2, 2) as pool, pool.agent() as agent:
        leases = [await agent.acquire(f"key-{index}", timeout=10) for index in range(3)]
        await pool.stop("broker")
        await pool.start_broker()
        for lease in leases:
            assert (await agent.renew(lease)).id == lease.id
        again = await agent.acquire("key-1", timeout=10)
        assert (again.id, again.token) == (leases[1].id, leases[1].token)
        await pool.until(lambda status: status.slots.leased == 3 and status.slots.free == 1)
        for lease in leases:
            await agent.release(lease)
        await pool.until(lambda status: status.slots.free == 4)


async def test_a_silent_member_loses_its_leases() -> None:
    async with pool_of(1) as pool, pool.agent() as agent:
        lease = await agent.acquire("a", ttl=60, timeout=10)
        member = pool.members["member-0"]
        member.identity = Identity("somebody-else", "default", "127.0.0.1", "x")
        pool.members["member-0"].config = member.config.model_copy(update={"report_seconds": 3600})
        await pool.until(lambda status: status.lost == 1)
        with pytest.raises(ProblemError) as caught:
            await agent.renew(lease)
        assert (caught.value.name, caught.value.status) == ("lease-lost", 410)


async def test_a_stopping_member_says_goodbye() -> None:
    async with pool_of(1, 1) as pool:
        await pool.stop("member-0")
        assert [member.name for member in (await pool.status()).members] == ["member-1"]


async def test_retirement_loses_against_a_lease_and_wins_when_idle() -> None:
    async with pool_of(1) as pool, pool.agent() as agent, ServiceClient(pool.url, token=TOKEN) as operator:
        lease = await agent.acquire("a", timeout=10)
        with pytest.raises(ProblemError) as caught:
            await operator.call("POST", "/members/member-0:retire")
        assert (caught.value.name, caught.value.status) == ("member-leased", 409)
        await agent.release(lease)
        await pool.until(lambda status: status.slots.free == 1)
        reply = await operator.call("POST", "/members/member-0:retire", RetireRequest())
        assert reply.json()["retired"] == 1
        assert isinstance(await agent.ask("b"), LeaseQueued)
        with pytest.raises(ProblemError) as caught:
            await operator.call("POST", "/members/nobody:retire")
        assert caught.value.name == "unknown-member"


async def test_a_draining_member_ends_its_leases_first() -> None:
    async with pool_of(2) as pool, pool.agent() as agent, ServiceClient(pool.url, token=TOKEN) as operator:
        lease = await agent.acquire("a", timeout=10)
        reply = await operator.call("POST", "/members/member-0:retire", RetireRequest(drain=True))
        assert (reply.json()["retired"], reply.json()["leased"]) == (1, 1)
        assert isinstance(await agent.ask("b"), LeaseQueued)
        await agent.release(lease)
        status = await pool.until(lambda status: status.slots.retired == 2)
        assert status.members[0].retiring


async def test_a_grant_that_a_member_refuses_goes_to_another() -> None:
    async with pool_of(1, 1) as pool, pool.agent() as agent:
        # Behind the broker's back, so that its ledger is wrong.
        pool.members["member-0"].guard.retire(None, drain=True, now=0)
        lease = await agent.ask("a", wait=5)
        assert isinstance(lease, Lease)
        assert lease.member == "member-1"


async def test_a_member_that_is_killed_is_skipped() -> None:
    async with pool_of(1, 1) as pool, pool.agent() as agent:
        stack = pool.stacks.pop("member-0")
        dead = pool.members["member-0"]
        dead.url = "http://127.0.0.1:1"
        await pool.until(lambda status: any(member.url.endswith(":1") for member in status.members))
        first = await agent.ask("a", wait=5)
        assert isinstance(first, Lease)
        assert first.member == "member-1"
        await stack.aclose()


async def test_an_orphan_lease_is_released() -> None:
    async with pool_of(1, 1) as pool, pool.agent() as agent:
        lease = await agent.acquire("a", timeout=10)
        other = next(name for name in pool.members if name != lease.member)
        pool.members[other].grant(GrantRequest(lease_id="orphan", key="a", holder="agent", ttl=60, max_seconds=60))
        pool.members[other].changed.set()
        for _ in range(400):
            slot = pool.members[other].guard.report()[0]
            if slot.state is SlotState.FREE:
                break
            await asyncio.sleep(0.01)
        assert (slot.state, slot.episodes) == (SlotState.FREE, 1)
        assert pool.members[lease.member].guard.find(lease.id) is not None


async def test_many_agents_never_share_a_slot() -> None:
    holders: dict[str, str] = {}

    async with pool_of(3, 3) as pool, pool.agent() as agent:

        async def episode(index: int) -> None:
            lease = await agent.acquire(f"key-{index}", timeout=30)
            place = f"{lease.member}/{lease.slot}"
            assert holders.setdefault(place, lease.id) == lease.id
            async with EnvironmentClient(lease.environment_url) as environment:
                await environment.reset(seed=index)
                assert (await environment.step("go")).observation.text == "count 1"
            del holders[place]
            await agent.release(lease)

        await asyncio.gather(*(episode(index) for index in range(60)))
        status = await pool.until(lambda status: status.slots.free == 6)
        assert (status.grants, status.releases, status.episodes) == (60, 60, 60)
        assert status.wait_p99 >= status.wait_p50 > 0
