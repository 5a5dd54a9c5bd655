"""A stand-in for a pool's broker, where members are objects without processes: it vouches for every Ready one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from bench.cluster import poll
from bench.contestants import POOL
from bench.pod_watch import PodWatch
from shoal.api.labels import PORTS, Role
from shoal.api.services.leases import BrokerStatus, MemberStatus, SlotTotals, VariantTotals
from shoal.kube import ApiError, KubeClient
from shoal.kube.resources import PODS

FOLLOW_SECONDS = 2.0


class FakeBroker:
    """Answers the operator as an idle pool's broker does: a report that is never twice the same, and every retirement.

    It listens where the broker's fake pod is said to be (a loopback address, see `POD_ADDRESSES`).
    """

    def __init__(self, members: PodWatch) -> None:
        self._members = members
        self._started = time.monotonic()
        self._addresses: set[str] = set()
        self.asked = 0
        """Reports given."""

    @contextlib.asynccontextmanager
    async def running(self, client: KubeClient, namespace: str) -> AsyncIterator[FakeBroker]:
        """Serve during the block, from the moment the broker's pod has an address."""
        application = web.Application()
        application.router.add_get("/status", self._status)
        application.router.add_post("/members/{name}:retire", self._retire)
        runner = web.AppRunner(application)
        await runner.setup()

        async def serving() -> bool:
            return await self._serve(runner, client, namespace)

        following: asyncio.Task[None] | None = None
        try:
            await poll(serving, 120)
            following = asyncio.create_task(self._follow(serving))
            yield self
        finally:
            if following is not None:
                following.cancel()
            await runner.cleanup()

    async def _serve(self, runner: web.AppRunner, client: KubeClient, namespace: str) -> bool:
        """Listen where the pod is now; returns whether it has an address."""
        with contextlib.suppress(ApiError):
            pod = await client.get(PODS, f"{POOL}-{Role.BROKER}", namespace)
            address = pod["status"].get("podIP", "")
            if address and address not in self._addresses:
                await web.TCPSite(runner, address, PORTS[Role.BROKER]).start()
                self._addresses.add(address)
        return bool(self._addresses)

    async def _follow(self, serving: Callable[[], Awaitable[bool]]) -> None:
        """On a busy machine kwok gives a pod a second address after the first one."""
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            await serving()

    async def _status(self, _: web.Request) -> web.Response:
        self.asked += 1
        up = time.monotonic() - self._started
        members = [
            MemberStatus(
                name=name, uid=f"00000000-0000-0000-0000-{number:012}", url="http://127.83.255.255:8010",
                variant="default", slots=SlotTotals(total=1, free=1), age=up % 2 + number / 10_000,
            )
            for number, name in enumerate(sorted(self._members.ready_at))
        ]  # fmt: skip
        slots = SlotTotals(total=len(members), free=len(members))
        status = BrokerStatus(
            members=members,
            slots=slots,
            variants={"default": VariantTotals(members=len(members), slots=slots)},
            uptime_seconds=up,
            slot_seconds=up * len(members),
        )
        return web.Response(body=status.model_dump_json(by_alias=True), content_type="application/json")

    async def _retire(self, request: web.Request) -> web.Response:
        return web.json_response({"member": request.match_info["name"], "retired": ["0"], "leased": []})
