"""Broker and members as processes, killed in the middle of the work."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from typing import Any
from urllib.parse import urlsplit

from shoal.api.services.leases import BrokerStatus, Lease, Outcome
from shoal_workers.broker.client import BrokerClient
from shoal_workers.environment.client import EnvironmentClient
from shoal_workers.service import ProblemError, ServiceClient, open_session
from shoal_workers.service.server import listen, url_of

EPISODES = 60
AGENTS = 12
SLOTS = 4


def free_port() -> int:
    listener = listen("127.0.0.1", 0)
    port = int(url_of(listener).rsplit(":", 1)[1])
    listener.close()
    return port


async def start(role: str, name: str, config: dict[str, Any]) -> Process:
    variables = os.environ | {
        "SHOAL_CONFIG": json.dumps(config),
        "SHOAL_TOKEN": "secret",
        "POD_IP": "127.0.0.1",
        "POD_NAME": name,
        "POD_UID": f"uid-{name}",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"shoal_workers.{role}", env=variables, stdout=DEVNULL, stderr=DEVNULL
    )


class World:
    """The processes, and what the agents saw."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.processes: dict[str, Process] = {}
        self.holders: dict[tuple[str, int], str] = {}
        self.done: list[int] = []
        self.retried = 0
        self.ports: dict[int, str] = {}
        self.midway: asyncio.Queue[str] | None = None

    async def broker(self) -> None:
        config = {"port": self.port, "ttl": 3.0, "heartbeat": 0.5, "report_seconds": 0.3, "guard_timeout": 1.0}
        self.processes["broker"] = await start("broker", "broker", config)

    async def member(self, name: str) -> None:
        port = free_port()
        self.ports[port] = name
        config = {
            "port": port,
            "slots": SLOTS,
            "broker_url": self.url,
            "report_seconds": 0.3,
            "environment": {
                "protocol": "Gymnasium",
                "entrypoint": "FrozenLake-v1",
                "config": {"kwargs": {"is_slippery": False}},
            },
        }
        self.processes[name] = await start("environment", name, config)

    async def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        await process.wait()

    async def busy_member(self) -> str:
        """The member of the next episode that has begun and has steps before it."""
        self.midway = asyncio.Queue()
        return await self.midway.get()

    async def episode(self, broker: BrokerClient, session: Any, number: int) -> None:
        for attempt in range(20):
            lease = await broker.acquire(f"{number}/{attempt}", timeout=60)
            if await self._played(broker, session, lease, number):
                self.done.append(number)
                return
            self.retried += 1
        raise AssertionError(f"episode {number} never ended")

    async def _played(self, broker: BrokerClient, session: Any, lease: Lease, number: int) -> bool:
        place = (lease.environment_url.split("/leases/")[0], lease.slot)
        assert self.holders.setdefault(place, lease.id) == lease.id, "two holders of one slot"
        environment = EnvironmentClient(lease.environment_url, session=session, timeout=5)
        try:
            async with broker.keeping(lease):
                await environment.reset(seed=number)
                steps = []
                for action in (1, 1, 2, 2, 1, 2):
                    await asyncio.sleep(0.05)
                    steps.append(await environment.step({"value": action}))
                    if self.midway is not None and len(steps) == 1:
                        self.midway.put_nowait(self.ports[urlsplit(lease.environment_url).port or 0])
            assert (steps[-1].reward, steps[-1].observation.text) == (1.0, "15")
            del self.holders[place]
            await broker.release(lease)
        except ProblemError:
            self.holders.pop(place, None)
            await broker.release(lease, Outcome.DIRTY)
            return False
        return True

    async def progress(self, share: float) -> None:
        for _ in range(1200):
            if len(self.done) >= share * EPISODES:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"stuck at {len(self.done)} episodes")


async def test_episodes_survive_the_death_of_the_broker_and_of_a_member() -> None:
    world = World()
    try:
        await world.broker()
        await asyncio.gather(world.member("member-0"), world.member("member-1"))
        async with open_session() as session, BrokerClient(world.url, holder="agent", token="secret") as broker:
            numbers = iter(range(EPISODES))

            async def agent() -> None:
                for number in numbers:
                    await world.episode(broker, session, number)

            agents = asyncio.gather(*(agent() for _ in range(AGENTS)))
            await world.progress(0.2)
            await world.kill("broker")
            await world.broker()
            await world.progress(0.5)
            # Not any member: after the broker's death one may hold nothing but leases that wait to expire.
            await world.kill(await world.busy_member())
            await world.member("member-2")
            await asyncio.wait_for(agents, 90)
        assert sorted(world.done) == list(range(EPISODES))
        assert world.retried > 0
        async with ServiceClient(world.url) as client:
            for _ in range(200):
                status = await client.get("/status", BrokerStatus)
                if status.slots.free == 2 * SLOTS:
                    break
                await asyncio.sleep(0.05)
        assert (status.slots.free, status.slots.leased, status.queued) == (2 * SLOTS, 0, 0)
    finally:
        for name in list(world.processes):
            await world.kill(name)
