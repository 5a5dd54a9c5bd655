"""The trainer's loop: in the right order, and exactly once whatever happens when."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shoal.api.services.training import TrainerPhase
from shoal_workers.service import ServiceClient, serving
from shoal_workers.trainer.driver import TrainerDriver
from shoal_workers.trainer.peers import DataManager, Gateway
from tests.trainer.fakes import CrashError, FakeDataManager, FakeDisk, FakeGateway, FakeLearner
from tests.trainer.settings import trainer_config, until

POINTS = ("before train", "after train", "before save", "after save", "before publish", "after publish")


def is_done(driver: TrainerDriver) -> bool:
    """Whether the driver has no step left."""
    return driver.status.phase is TrainerPhase.DONE


class Bench:
    """Fakes around real drivers, which come and go as trainer processes do."""

    def __init__(self, data: FakeDataManager, urls: tuple[str, str], folder: Path) -> None:
        self.data = data
        self.gateway = FakeGateway()
        self.disk = FakeDisk()
        self._urls = urls
        self._folder = folder

    def restart(self) -> None:
        """All from the beginning, behind the same sockets."""
        self.disk = FakeDisk()
        self.data.__init__(total=self.data.total)  # type: ignore[misc]
        self.gateway.targets.clear()

    def _told(self) -> bool:
        """Whether the gateway knows of the newest version; it hears of it in its own time."""
        targets = self.gateway.targets
        return bool(targets) and targets[-1].version == max(self.disk.published)

    async def live(self, crash: Callable[[str], None] = lambda point: None, **changes: Any) -> TrainerDriver:
        """One life of a trainer: until its steps are done, or it crashes."""
        config = trainer_config(self._folder, **{"steps": self.data.total, **changes})
        learner = FakeLearner(config, self.disk, crash)
        async with ServiceClient(self._urls[0]) as data, ServiceClient(self._urls[1]) as gateway:
            driver = TrainerDriver(config, learner, DataManager(data, "trainer-0"), Gateway(gateway))
            task = asyncio.create_task(driver.run())
            await until(lambda: task.done() or (is_done(driver) and self._told()))
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, CrashError):
                await task
        return driver


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Six batches to train."""
    data, gateway = FakeDataManager(total=6), FakeGateway()
    async with serving(data.service()) as data_url, serving(gateway.service()) as gateway_url:
        bench = Bench(data, (data_url, gateway_url), tmp_path)
        bench.gateway = gateway
        yield bench


def crash_at(point: str, count: int) -> Callable[[str], None]:
    """Crash at the `count`-th time (from 1) that the learner passes `point`."""
    seen = 0

    def crash(here: str) -> None:
        nonlocal seen
        seen += here == point
        if here == point and seen == count:
            raise CrashError(point)

    return crash


async def test_every_batch_is_trained_published_and_acknowledged_in_order(bench: Bench) -> None:
    driver = await bench.live()
    expected = [f"b{index}" for index in range(6)]
    assert bench.data.consumed == expected
    assert bench.disk.published == {index + 1: expected[: index + 1] for index in range(6)}
    assert [report.version for report in bench.data.reports] == [0, 1, 2, 3, 4, 5, 6]
    assert bench.gateway.targets[-1].version == 6
    assert (driver.status.step, driver.status.version, driver.status.checkpoint_step) == (6, 6, 6)


@pytest.mark.parametrize("every", [1, 3])
async def test_a_crash_anywhere_trains_nothing_twice_and_loses_nothing(bench: Bench, every: int) -> None:
    for point, count in itertools.product(POINTS, (1, 2, 3, 6)):
        bench.restart()
        await bench.live(crash_at(point, count), checkpoint_every=every)
        await bench.live(checkpoint_every=every)
        weights = bench.disk.checkpoints[6][1]
        assert sorted(weights) == [f"b{index}" for index in range(6)], (point, count)
        assert sorted(bench.data.consumed) == sorted(weights), (point, count)
        assert bench.disk.published[max(bench.disk.published)] == weights, (point, count)
        assert bench.gateway.targets[-1].version == max(bench.disk.published), (point, count)


async def test_versions_never_go_back_when_a_checkpoint_is_older_than_the_last_publication(bench: Bench) -> None:
    await bench.live(crash_at("after publish", 2), checkpoint_every=3)
    assert max(bench.disk.published) == 2
    await bench.live(checkpoint_every=3)
    versions = [report.version for report in bench.data.reports]
    assert versions == sorted(versions)
    assert bench.disk.published[3] == []


async def test_a_batch_that_was_lost_while_it_was_trained_leaves_no_trace(bench: Bench) -> None:
    bench.data.lost.add("b2")
    await bench.live()
    weights = bench.disk.checkpoints[6][1]
    assert sorted(weights) == sorted(bench.data.consumed) == [f"b{index}" for index in range(6)]


async def test_the_lease_is_renewed_while_a_step_takes_long(bench: Bench) -> None:
    bench.data.lease_seconds = 0.03
    release = asyncio.Event()

    class SlowLearner(FakeLearner):
        async def train(self, batch: bytes, step: int, version: int) -> dict[str, float]:
            figures = await super().train(batch, step, version)
            await asyncio.wait_for(release.wait(), 20)
            return figures

    config = trainer_config(Path("/nowhere"), steps=1)
    async with ServiceClient(bench._urls[0]) as data, ServiceClient(bench._urls[1]) as gateway:
        learner = SlowLearner(config, bench.disk, lambda point: None)
        driver = TrainerDriver(config, learner, DataManager(data, "t"), Gateway(gateway))
        task = asyncio.create_task(driver.run())
        await until(lambda: len(bench.data.renewed) >= 3)
        assert driver.status.phase is TrainerPhase.TRAINING
        assert driver.status.busy_seconds > 0
        release.set()
        await until(lambda: is_done(driver))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert bench.data.consumed == ["b0"]


async def test_a_job_that_is_complete_early_ends_training(bench: Bench) -> None:
    driver = await bench.live(steps=100)
    assert driver.status.phase is TrainerPhase.DONE
    assert driver.status.step == 6


async def test_services_that_are_away_are_waited_for(tmp_path: Path) -> None:
    data, gateway = FakeDataManager(total=1), FakeGateway()
    async with serving(data.service()) as data_url:
        pass
    port = int(data_url.rsplit(":", 1)[1])
    config = trainer_config(tmp_path, steps=1)
    learner = FakeLearner(config, FakeDisk(), lambda point: None)
    async with ServiceClient(data_url, retries=0) as client, ServiceClient("http://127.0.0.1:1") as nowhere:
        driver = TrainerDriver(config, learner, DataManager(client, "t"), Gateway(nowhere))
        task = asyncio.create_task(driver.run())
        await asyncio.sleep(0.1)
        assert not task.done()
        async with serving(data.service(), port=port), serving(gateway.service()):
            await until(lambda: is_done(driver))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert data.consumed == ["b0"]
