"""Trainer and data manager together: the store's own proof that nothing is trained twice or lost, crash by crash."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from shoal.api.services.report import RunReport
from shoal.api.services.trajectories import Claimed
from shoal_workers.data.manager import DataManager as RealDataManager
from shoal_workers.data.server import make_service
from shoal_workers.service import ServiceClient, serving
from shoal_workers.trainer.driver import TrainerDriver
from shoal_workers.trainer.peers import DataManager, Gateway
from tests.data.play import claim, config, record
from tests.trainer.fakes import CrashError, FakeDisk, FakeLearner
from tests.trainer.settings import trainer_config, until
from tests.trainer.test_driver import POINTS, crash_at, is_done


@contextlib.asynccontextmanager
async def playing(client: ServiceClient) -> AsyncIterator[None]:
    """An agent that finishes every episode at once, sampled by the newest weights that the data manager knows."""

    async def play() -> None:
        while True:
            claimed = await client.post("/assignments:claim", claim(count=8, wait=0.05), Claimed)
            for assignment in claimed.assignments:
                finished = record(assignment, reward=1.0, version=assignment.policy_version)
                await client.call("POST", "/trajectories", finished, idempotent=True)

    task = asyncio.create_task(play())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def live(url: str, folder: Path, disk: FakeDisk, point: str = "", count: int = 0, **changes: Any) -> None:
    """One life of a trainer of four steps, which may be cut short."""
    settings = trainer_config(folder, steps=4, batch_groups=2, **changes)
    async with ServiceClient(url) as data, ServiceClient("http://127.0.0.1:1", retries=0) as nowhere:
        learner = FakeLearner(settings, disk, crash_at(point, count))
        driver = TrainerDriver(settings, learner, DataManager(data, "trainer"), Gateway(nowhere))
        task = asyncio.create_task(driver.run())
        await until(lambda: task.done() or is_done(driver))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, CrashError):
            await task


async def test_the_store_proves_that_crashes_repeat_and_lose_nothing(tmp_path: Path) -> None:
    for point, count in itertools.product(POINTS, (1, 3)):
        folder = tmp_path / f"{point}-{count}"
        manager = RealDataManager(config(folder))
        disk = FakeDisk()
        async with serving(make_service(manager, None)) as url, ServiceClient(url) as client, playing(client):
            await live(url, folder, disk, point, count)
            await live(url, folder, disk)
            report = await client.get("/report", RunReport)
        weights = disk.checkpoints[4][1]
        assert len(weights) == len(set(weights)) == 4, (point, count)
        assert report.proof.holds, (point, count, report.proof)
        assert report.proof.trained == 4 * 2 * 2, (point, count)
        assert [step.step for step in report.steps] == [1, 2, 3, 4], (point, count)


async def test_the_report_has_each_steps_own_trajectories_when_checkpoints_are_rare(tmp_path: Path) -> None:
    for point in ("", "after save", "before publish"):
        folder = tmp_path / (point or "whole")
        manager = RealDataManager(config(folder, max_staleness=4))
        disk = FakeDisk()
        async with serving(make_service(manager, None)) as url, ServiceClient(url) as client, playing(client):
            if point:
                await live(url, folder, disk, point, 1, checkpoint_every=2)
            await live(url, folder, disk, checkpoint_every=2)
            report = await client.get("/report", RunReport)
        assert report.proof.holds, (point, report.proof)
        assert [(step.step, step.trajectories) for step in report.steps] == [(step, 4) for step in (1, 2, 3, 4)], point
