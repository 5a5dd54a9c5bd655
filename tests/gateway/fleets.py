"""A gateway and engines with fake cores, over real sockets in one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from shoal.api.services.models import (
    GatewayStatus,
    GenerateRequest,
    GenerateResult,
    SamplingParameters,
    WeightsTarget,
)
from shoal.api.services.roles.engine import EngineConfig
from shoal.api.services.roles.gateway import GatewayConfig
from shoal_workers.engines.engine import Engine
from shoal_workers.engines.registration import Registration
from shoal_workers.engines.server import make_service
from shoal_workers.gateway.server import Gateway, make_gateway
from shoal_workers.service import ServiceClient, serving
from tests.engines.fakes import FakeCore, write_version

INTERVAL = 0.1
TOKEN = "secret"
ENGINE_TOKEN = "an engine's"
T = TypeVar("T")


@dataclass
class Fleet:
    """A running gateway, a client of it, one that speaks as its engines do, and engines."""

    gateway: Gateway
    url: str
    client: ServiceClient
    reporter: ServiceClient
    stack: AsyncExitStack
    engines: dict[str, Engine] = field(default_factory=dict)

    async def add(self, name: str, core: FakeCore | None = None) -> Engine:
        """Start an engine that registers itself."""
        engine = Engine(name, core or FakeCore())
        config = EngineConfig(type="Reference", model="none")
        url = await self.stack.enter_async_context(serving(make_service(config, engine, token=ENGINE_TOKEN)))
        client = ServiceClient(self.url, token=ENGINE_TOKEN)
        registration = Registration(engine, client, uid=f"uid-{name}", url=url, interval=INTERVAL)
        await self.stack.enter_async_context(registration.running())
        self.engines[name] = engine
        return engine

    async def generate(self, tokens: int, **fields: Any) -> GenerateResult:
        """One call with a prompt of three tokens."""
        return await self.client.post("/generate", request(tokens, **fields), GenerateResult)

    async def status(self) -> GatewayStatus:
        """The gateway's status."""
        return await self.client.get("/status", GatewayStatus)

    async def publish(self, folder: Path, version: int, run: str = "", *, reset: bool = False) -> WeightsTarget:
        """Publish weights."""
        path = write_version(folder / f"{run}{version}")
        target = WeightsTarget(version=version, path=str(path), run=run)
        await self.client.call("PUT", f"/weights/target?reset={str(reset).lower()}", target)
        return target

    async def until(self, condition: Callable[[GatewayStatus], bool], seconds: float = 15.0) -> GatewayStatus:
        """Wait for the status to fulfil a condition."""

        async def holds() -> GatewayStatus | None:
            status = await self.status()
            return status if condition(status) else None

        return await until(holds, seconds)


async def until(look: Callable[[], Awaitable[T | None]], seconds: float = 15.0) -> T:
    """Poll until there is something."""
    async with asyncio.timeout(seconds):
        while (found := await look()) is None:  # noqa: ASYNC110 - a status is polled
            await asyncio.sleep(0.01)
        return found


def request(tokens: int, **fields: Any) -> GenerateRequest:
    """A request with a prompt of three tokens."""
    return GenerateRequest.model_validate(
        {"request_id": "r", "prompt_token_ids": [1, 1, 1], "sampling": SamplingParameters(max_tokens=tokens), **fields}
    )


def routed(status: GatewayStatus) -> set[str]:
    """Names of the engines that requests go to."""
    return {engine.name for engine in status.engines if engine.routed}


@asynccontextmanager
async def fleet(*names: str, **config: Any) -> AsyncIterator[Fleet]:
    """A gateway with these engines, ready to serve."""
    settings = {"report_seconds": INTERVAL, "missed_reports": 5, "update_timeout": 20.0, **config}
    gateway = make_gateway(GatewayConfig(**settings), TOKEN, ENGINE_TOKEN)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(gateway.service))
        client = await stack.enter_async_context(ServiceClient(url, token=TOKEN, timeout=60))
        reporter = await stack.enter_async_context(ServiceClient(url, token=ENGINE_TOKEN, timeout=60))
        running = Fleet(gateway, url, client, reporter, stack)
        for name in names:
            await running.add(name)
        await running.until(lambda status: routed(status) == set(names))
        yield running
