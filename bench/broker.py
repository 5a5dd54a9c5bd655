"""Leases per second of one broker, beside a bare FastAPI echo endpoint in the same run.

    python bench/broker.py [--members 4] [--slots 64] [--agents 64] [--leases 4000]

A lease is: acquire, release, and the member's reports in between; the environment itself is not driven. All servers are
processes of their own, so that the CPU time of the broker alone is known.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.api.services.leases import BrokerStatus
from shoal_workers.broker.client import BrokerClient
from shoal_workers.service import ServiceClient
from shoal_workers.service.server import listen, url_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ECHO = """
import sys, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
class Body(BaseModel):
    key: str
    holder: str
app = FastAPI()
@app.post("/echo")
async def echo(body: Body) -> Body:
    return body
uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning")
"""


@dataclass
class Figures:
    """What one load cost: calls, wall seconds, CPU seconds of the server."""

    calls: int
    seconds: float
    cpu: float

    @property
    def per_second(self) -> float:
        """Calls per wall second."""
        return self.calls / self.seconds

    @property
    def per_core(self) -> float:
        """Calls per CPU second of the server: what one core could do."""
        return self.calls / self.cpu


def cpu_seconds(pid: int) -> float:
    """User and system time of a process (proc(5), fields 14 and 15)."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A port nobody listens on."""
    listener = listen("127.0.0.1", 0)
    port = int(url_of(listener).rsplit(":", 1)[1])
    listener.close()
    return port


@asynccontextmanager
async def process(arguments: list[str], ready: str, **variables: str) -> AsyncIterator[int]:
    """A server process, from its first answer at the URL `ready`; gives its pid."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=os.environ | variables, stdout=subprocess.DEVNULL
    )
    try:
        async with ServiceClient(ready, retries=80) as client:
            await client.call("GET", "")
        yield server.pid
    finally:
        server.terminate()
        await server.wait()


def role(name: str, port: int, config: dict[str, Any], pod: str) -> Any:
    """A Shoal role's process."""
    variables = {"SHOAL_CONFIG": json.dumps({"port": port} | config), "POD_IP": "127.0.0.1", "POD_NAME": pod}
    return process(["-m", f"shoal_workers.{name}"], f"http://127.0.0.1:{port}/readyz", **variables)


async def measure(pid: int, agents: int, calls: int, work: Any) -> Figures:
    """Do `work(number)` for every number below `calls`, `agents` at a time."""
    numbers = iter(range(calls))

    async def agent() -> None:
        for number in numbers:
            await work(number)

    cpu, start = cpu_seconds(pid), time.perf_counter()
    await asyncio.gather(*(agent() for _ in range(agents)))
    return Figures(calls, time.perf_counter() - start, cpu_seconds(pid) - cpu)


async def all_free(client: ServiceClient, slots: int) -> None:
    """Wait until the broker knows of that many free slots; raises TimeoutError after a minute."""
    for _ in range(600):
        if (await client.get("/status", BrokerStatus)).slots.free == slots:
            return
        await asyncio.sleep(0.1)
    raise TimeoutError(f"{slots} slots were never free")


async def lease_load(options: argparse.Namespace) -> tuple[Figures, BrokerStatus]:
    """The leases."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    member = {
        "slots": options.slots,
        "broker_url": url,
        "environment": {"protocol": "Gymnasium", "entrypoint": "FrozenLake-v1"},
    }
    async with AsyncExitStack() as stack:
        pid = await stack.enter_async_context(role("broker", port, {}, "broker"))
        for index in range(options.members):
            await stack.enter_async_context(role("environment", free_port(), member, f"member-{index}"))
        broker = await stack.enter_async_context(BrokerClient(url, holder="bench"))
        client = await stack.enter_async_context(ServiceClient(url))
        await all_free(client, options.members * options.slots)

        async def work(number: int) -> None:
            lease = await broker.acquire(f"lease-{number}", timeout=60)
            await broker.release(lease)

        figures = await measure(pid, options.agents, options.leases, work)
        return figures, await client.get("/status", BrokerStatus)


async def echo_load(options: argparse.Namespace) -> Figures:
    """The baseline."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with process(["-c", ECHO, str(port)], f"{url}/openapi.json") as pid, ServiceClient(url) as client:
        body = {"key": "key", "holder": "bench"}
        return await measure(pid, options.agents, options.leases, lambda _: client.call("POST", "/echo", body))


async def main() -> None:
    """Run both and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("members", 4), ("slots", 64), ("agents", 64), ("leases", 4000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    echo = await echo_load(options)
    leases, status = await lease_load(options)
    print(f"echo    {echo.per_second:8.0f} calls/s  {echo.per_core:8.0f} per core of the server")
    print(f"leases  {leases.per_second:8.0f} leases/s {leases.per_core:8.0f} per core of the broker")
    print(f"ratio   one lease costs the CPU of {echo.per_core / leases.per_core:.1f} echo calls")
    print(f"wait    p50 {status.wait_p50 * 1000:.1f} ms, p99 {status.wait_p99 * 1000:.1f} ms")
    assert status.grants == status.releases == options.leases, status


if __name__ == "__main__":
    asyncio.run(main())
