"""The relay of a Service: nothing lost, nothing stuck, refusals that are refusals."""

from __future__ import annotations

import asyncio
import random

import pytest
import uvloop

from shoal_embedded.node.relay import Endpoint, Relay
from tests.kubernetes import free_ports


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """Both loops: they differ in when they begin to read and how they close."""
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


class FakeService:
    """A relay with as many echoing pods as wanted, all on loopback addresses of their own."""

    def __init__(self) -> None:
        self.endpoints: list[Endpoint] = []
        self.relay = Relay(("127.0.0.1", free_ports(1)[0]), lambda: self.endpoints, connect_seconds=1.0)
        self._servers: dict[Endpoint, asyncio.Server] = {}

    async def add(self, address: str) -> Endpoint:
        """Start a pod that echoes lines."""

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while content := await reader.read(65536):
                writer.write(content)
                await writer.drain()
            writer.close()

        place = (address, free_ports(1)[0])
        self._servers[place] = await asyncio.start_server(echo, *place)
        self.endpoints = [*self.endpoints, place]
        await self.relay.adjust()
        return place

    def stop(self, place: Endpoint) -> None:
        """Stop a pod without telling the relay."""
        self._servers[place].close()

    async def exchange(self, content: bytes) -> bytes:
        """Send all of it, close that direction, return the answer."""
        reader, writer = await asyncio.open_connection(*self.relay.address)
        try:
            writer.write(content)
            writer.write_eof()
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()


async def test_everything_arrives() -> None:
    service = FakeService()
    await service.add("127.0.0.2")
    sizes = [1, 100, 70_000, 1_000_000, 5_000_000]
    contents = [random.Random(size).randbytes(size) for size in sizes]
    answers = await asyncio.gather(*(service.exchange(content) for content in contents))
    assert answers == contents
    service.relay.close()


async def test_many_short_connections() -> None:
    service = FakeService()
    for address in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
        await service.add(address)

    async def client(number: int) -> None:
        for turn in range(20):
            content = f"{number}/{turn}\n".encode()
            assert await service.exchange(content) == content

    await asyncio.gather(*(client(number) for number in range(30)))
    service.relay.close()


async def test_a_dead_pod_is_passed_over() -> None:
    service = FakeService()
    dead = await service.add("127.0.0.2")
    await service.add("127.0.0.3")
    service.stop(dead)
    assert [await service.exchange(b"x") for _ in range(4)] == [b"x"] * 4
    service.relay.close()


async def test_refusals() -> None:
    service = FakeService()
    with pytest.raises(ConnectionRefusedError):
        await service.exchange(b"x")
    place = await service.add("127.0.0.2")
    assert await service.exchange(b"x") == b"x"
    service.endpoints = []
    await service.relay.adjust()
    with pytest.raises(ConnectionRefusedError):
        await service.exchange(b"x")
    service.endpoints = [place]
    service.stop(place)
    await service.relay.adjust()
    with pytest.raises(ConnectionResetError):
        await service.exchange(b"x")
    service.relay.close()


async def test_a_pod_that_comes_late_is_waited_for() -> None:
    service = FakeService()
    place = await service.add("127.0.0.2")
    service.stop(place)
    asked = asyncio.create_task(service.exchange(b"x"))
    await asyncio.sleep(0.2)
    await service.add("127.0.0.3")
    assert await asked == b"x"
    service.relay.close()
