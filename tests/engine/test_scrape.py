"""Status scraping over real sockets: a dead or slow target costs its own answer only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from pydantic import BaseModel

from shoal.engine.scrape import Scraper, Target
from tests.engine.waiting import until


class Status(BaseModel):
    value: int


class FakeService:
    """Answers /status with `code` and `body`, after `delay` seconds."""

    def __init__(self) -> None:
        self.body: Any = {"value": 1}
        self.delay = 0.0
        self.code = 200
        self.asked = 0
        self.url = ""

    async def status(self, request: web.Request) -> web.Response:
        self.asked += 1
        await asyncio.sleep(self.delay)
        return web.json_response(self.body, status=self.code)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[FakeService]:
        app = web.Application()
        app.router.add_get("/status", self.status)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    async with FakeService().serve() as service:
        yield service


@asynccontextmanager
async def scraping(**options: Any) -> AsyncIterator[Scraper[str]]:
    scraper: Scraper[str] = Scraper(interval=0.02, **options)
    task = asyncio.create_task(scraper.run())
    try:
        yield scraper
    finally:
        task.cancel()
        await asyncio.wait({task})


def target(service: FakeService) -> Target:
    return Target(service.url, Status)


async def test_answers_are_typed_and_changes_are_told(service: FakeService) -> None:
    async with scraping() as scraper:
        told: list[str] = []
        scraper.on_change(told.append)
        scraper.set_targets("pool", {"broker": target(service)})
        await until(lambda: scraper.value("pool", "broker", Status) == Status(value=1))
        assert told == ["pool"]
        asked = service.asked
        await until(lambda: service.asked > asked + 3)
        assert told == ["pool"]
        service.body = {"value": 2}
        await until(lambda: scraper.value("pool", "broker", Status) == Status(value=2))
        assert told == ["pool", "pool"]


async def test_slow_and_dead_targets_do_not_delay_the_others(service: FakeService) -> None:
    async with FakeService().serve() as slow, scraping(timeout=0.3) as scraper:
        slow.delay = 10
        dead = Target("http://127.0.0.1:1", Status)
        scraper.set_targets("a", {"slow": target(slow), "dead": dead})
        scraper.set_targets("b", {"good": target(service)})
        await until(lambda: service.asked > 5)
        assert slow.asked <= 2
        await until(lambda: scraper.get("a", "slow") is not None)
        seen = scraper.get("a", "slow"), scraper.get("a", "dead")
        assert seen[0] is not None
        assert seen[1] is not None
        assert seen[0].error == "no answer in time"
        assert "ClientConnectorError" in seen[1].error
        assert seen[1].age(0) == float("inf")


async def test_the_last_good_answer_stays_with_its_age_and_the_error(service: FakeService) -> None:
    async with scraping() as scraper:
        scraper.set_targets("pool", {"broker": target(service)})
        await until(lambda: scraper.value("pool", "broker", Status) is not None)
        service.body = {"value": "many"}
        await until(lambda: bool(scraper.get("pool", "broker").error))  # type: ignore[union-attr]
        seen = scraper.get("pool", "broker")
        assert seen is not None
        assert seen.value == Status(value=1)
        assert seen.error.startswith("not a Status: value: ")
        await asyncio.sleep(0.05)
        assert scraper.value("pool", "broker", Status, max_age=0.04) is None


async def test_a_refusal_is_an_error(service: FakeService) -> None:
    service.code = 401
    async with scraping() as scraper:
        scraper.set_targets("pool", {"broker": target(service)})
        await until(lambda: scraper.get("pool", "broker") is not None)
        assert "401" in scraper.get("pool", "broker").error  # type: ignore[union-attr]


async def test_targets_that_are_dropped_are_forgotten(service: FakeService) -> None:
    async with scraping() as scraper:
        scraper.set_targets("pool", {"broker": target(service)})
        await until(lambda: scraper.get("pool", "broker") is not None)
        scraper.set_targets("pool", {"broker": Target(service.url + "/", Status)})
        assert scraper.get("pool", "broker") is None
        scraper.set_targets("pool", {})
        asked = service.asked
        await asyncio.sleep(0.1)
        assert service.asked <= asked + 1
        assert scraper.get("pool", "broker") is None
