"""The trainer's loop: in the right order, and exactly once whatever happens when."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from shoal.api.services.models import WeightsTarget
from shoal.api.services.training import TrainerPhase
from shoal.api.services.trajectories import TrainGroup
from shoal_workers.service import ProblemError, ServiceClient, serving
from shoal_workers.trainer import publish
from shoal_workers.trainer.driver import TrainerDriver
from shoal_workers.trainer.local import ThreadLearner
from shoal_workers.trainer.peers import DataManager, Gateway
from shoal_workers.trainer.progress import Progress
from tests.models import write_model
from tests.trainer.fakes import CrashError, FakeDataManager, FakeDisk, FakeGateway, FakeLearner, trajectory, two_armed
from tests.trainer.settings import trainer_config, until

POINTS = ("before train", "after train", "before save", "after save", "before publish", "after publish")


def is_done(driver: TrainerDriver) -> bool:
    """Whether the driver has no step left."""
    return driver.status.phase is TrainerPhase.DONE


@contextlib.asynccontextmanager
async def running(driver: TrainerDriver) -> AsyncIterator[TrainerDriver]:
    """The driver at work while the block runs."""
    task = asyncio.create_task(driver.run())
    try:
        yield driver
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Bench:
    """Fakes around real drivers, which come and go as trainer processes do."""

    def __init__(self, data: FakeDataManager, urls: tuple[str, str], folder: Path) -> None:
        self.data = data
        self.gateway = FakeGateway()
        self.disk = FakeDisk()
        self.urls = urls
        self.folder = folder

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
        config = trainer_config(self.folder, **{"steps": self.data.total, **changes})
        learner = FakeLearner(config, self.disk, crash)
        async with ServiceClient(self.urls[0]) as data, ServiceClient(self.urls[1]) as gateway:
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
    assert bench.disk.published == {version: expected[:version] for version in range(7)}
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
        booked = {name: step for name, (step, _) in bench.data.booked.items()}
        assert booked == {name: place + 1 for place, name in enumerate(weights)}, (point, count)


async def test_a_batch_is_booked_with_the_step_and_version_that_trained_it(bench: Bench) -> None:
    await bench.live(checkpoint_every=3)
    assert bench.data.booked == {f"b{index}": (index + 1, index + 1) for index in range(6)}


async def test_a_batch_keeps_its_step_when_the_trainer_dies_before_it_is_acknowledged(bench: Bench) -> None:
    await bench.live(crash_at("after save", 1), checkpoint_every=3)
    assert bench.data.booked == {}
    await bench.live(checkpoint_every=3)
    assert bench.data.booked["b1"] == (2, 2)
    # The checkpoint's version 3 is published at the restart, so no number is lost between the two lives.
    assert bench.data.booked["b3"] == (4, 4)


async def test_versions_never_go_back_when_a_checkpoint_is_older_than_the_last_publication(bench: Bench) -> None:
    await bench.live(crash_at("after publish", 3), checkpoint_every=3)
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
    async with ServiceClient(bench.urls[0]) as data, ServiceClient(bench.urls[1]) as gateway:
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


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


async def test_only_steps_are_busy_time_and_only_waiting_for_batches_is_waiting_time(tmp_path: Path) -> None:
    clock = Clock()

    class TimedLearner(FakeLearner):
        async def restore(self) -> Progress:
            clock.now += 100
            return await super().restore()

        async def train(self, batch: bytes, step: int, version: int) -> dict[str, float]:
            clock.now += 7
            return await super().train(batch, step, version)

        async def save(self, progress: Progress) -> None:
            clock.now += 2
            await super().save(progress)

        async def publish(self, version: int, step: int, in_use: Collection[int] | None) -> WeightsTarget:
            clock.now += 1
            return await super().publish(version, step, in_use)

    def five_seconds_later(index: int) -> list[TrainGroup]:
        clock.now += 5
        return two_armed(index)

    data, gateway = FakeDataManager(total=2, make=five_seconds_later), FakeGateway()
    data.lost.add("b1")
    config = trainer_config(tmp_path, steps=2)
    learner = TimedLearner(config, FakeDisk(), lambda point: None)
    async with (
        serving(data.service()) as data_url,
        serving(gateway.service()) as gateway_url,
        ServiceClient(data_url) as to_data,
        ServiceClient(gateway_url) as to_gateway,
    ):
        driver = TrainerDriver(config, learner, DataManager(to_data, "t"), Gateway(to_gateway), clock)
        async with running(driver):
            await until(lambda: is_done(driver))
            clock.now += 1000
            status = driver.status
    # Two steps of 7 + 2 + 1 seconds, and 7 for the batch that was lost before its checkpoint; three waits of 5.
    assert (status.busy_seconds, status.wait_seconds) == (27, 15)
    # The two returns to a checkpoint, the original weights' publication and the time after the end are neither.
    assert status.uptime_seconds == 27 + 15 + 2 * 100 + 1 + 1000


async def test_a_batch_that_cannot_be_trained_on_passes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def second_is_too_long(index: int) -> list[TrainGroup]:
        if index != 1:
            return two_armed(index)
        rows = [trajectory(f"long-{place}", float(place), [3] * 16, [4], [-1.0]) for place in range(2)]
        return [TrainGroup(id="long", task_id="t", trajectories=rows)]

    write_model(tmp_path / "model")
    data, gateway = FakeDataManager(total=3, make=second_is_too_long), FakeGateway()
    config = trainer_config(tmp_path, steps=3, max_model_len=16, run="lake-1", learner_threads=1)
    learner = ThreadLearner(config)
    async with (
        serving(data.service()) as data_url,
        serving(gateway.service()) as gateway_url,
        ServiceClient(data_url) as to_data,
        ServiceClient(gateway_url) as to_gateway,
    ):
        driver = TrainerDriver(config, learner, DataManager(to_data, "t"), Gateway(to_gateway))
        async with running(driver):
            await until(lambda: is_done(driver) and bool(gateway.targets) and gateway.targets[-1].version == 3)
    await learner.close()
    assert data.booked == {"b0": (1, 1), "b1": (2, 2), "b2": (3, 3)}
    figures = [report.metrics for report in data.reports[1:]]
    assert [each["segments_too_long"] for each in figures] == [0, 2, 0]
    assert [each["tokens_trained"] for each in figures] == [4, 0, 4]
    messages = [record.message for record in caplog.records]
    assert messages.count("segments longer than max_model_len were left out") == 1
    assert messages.count("the batch had nothing to learn from") == 1
    weights = [(tmp_path / "versions" / str(version) / "model.safetensors").read_bytes() for version in (1, 2, 3)]
    assert weights[0] == weights[1] != weights[2]
    newest = publish.latest(tmp_path / "versions", "lake-1")
    assert newest is not None
    assert gateway.targets[-1] == newest
    assert b'"run":"lake-1"' in (tmp_path / "versions" / "latest.json").read_bytes()


async def test_versions_that_are_loaded_or_aimed_at_are_in_use(bench: Bench) -> None:
    bench.gateway.engines, bench.gateway.loading = {"e0": 40, "e1": 41}, [42]
    config = trainer_config(bench.folder, steps=2)
    learner = FakeLearner(config, bench.disk, lambda point: None)
    async with ServiceClient(bench.urls[0]) as data, ServiceClient(bench.urls[1]) as client:
        gateway = Gateway(client)
        driver = TrainerDriver(config, learner, DataManager(data, "t"), gateway)
        bench.gateway.targets.append(WeightsTarget(version=43, path="/other"))
        async with running(driver):
            await until(lambda: is_done(driver))
    of_first_step = learner.in_use[1]
    assert of_first_step is not None
    assert of_first_step >= {40, 41, 42}
    assert 0 in of_first_step, "the trainer itself has told of this one, or is about to"


async def test_nothing_is_known_to_be_unused_while_the_gateway_is_away_or_new(bench: Bench) -> None:
    config = trainer_config(bench.folder, steps=1)
    learner = FakeLearner(config, bench.disk, lambda point: None)
    async with (
        ServiceClient(bench.urls[0]) as data,
        ServiceClient("http://127.0.0.1:1", retries=0) as nowhere,
        running(TrainerDriver(config, learner, DataManager(data, "t"), Gateway(nowhere))) as driver,
    ):
        await until(lambda: is_done(driver))
    async with ServiceClient(bench.urls[1]) as client:
        assert await Gateway(client).served() is None, "it has no target yet"
    assert learner.in_use == [None, None]


async def test_a_restored_version_is_published_for_its_run(bench: Bench) -> None:
    await bench.live(run="lake-1")
    assert bench.gateway.left == ["lake-1"], "the fleet is not given up at the end"
    bench.gateway.targets.clear()
    driver = await bench.live(run="lake-1")
    assert (driver.status.version, bench.gateway.targets[-1].run) == (6, "lake-1")
    # And where the checkpoint is older than the last publication.
    bench.restart()
    await bench.live(crash_at("after publish", 2), checkpoint_every=3, run="lake-1")
    await bench.live(checkpoint_every=3, run="lake-1")
    assert {target.run for target in bench.gateway.targets} == {"lake-1"}


async def test_a_fleet_that_another_run_holds_is_told_of_once_and_asked_until_it_is_free(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    holder = "lake-2"

    def refuse(target: WeightsTarget) -> ProblemError | None:
        if not holder:
            return None
        # The text counts seconds down, as the gateway's does.
        detail = f"the fleet serves the weights of run {holder!r} ({120 - bench.gateway.asked} s from now at least)"
        return ProblemError("fleet-in-use", detail, status=409, extensions={"run": holder})

    def told() -> list[str]:
        return [record.cause for record in caplog.records if record.message == "gateway did not take the weights"]

    bench.gateway.refuse = refuse
    config = trainer_config(bench.folder, steps=1, run="lake-1")
    learner = FakeLearner(config, bench.disk, lambda point: None)
    async with ServiceClient(bench.urls[0]) as data, ServiceClient(bench.urls[1]) as client:
        driver = TrainerDriver(config, learner, DataManager(data, "t"), Gateway(client))
        async with running(driver):
            await until(lambda: bench.gateway.asked >= 3 and is_done(driver))
            assert len(told()) == 1
            assert "fleet-in-use" in told()[0]
            assert "'lake-2'" in driver.status.detail
            assert "version 1" in driver.status.detail
            holder = "lake-3"
            await until(lambda: "'lake-3'" in driver.status.detail)
            assert len(told()) == 2
            holder = ""
            await until(lambda: bool(bench.gateway.targets) and not driver.status.detail)
    assert bench.gateway.targets[-1].run == "lake-1"
    assert len(told()) == 2


async def test_a_volume_that_is_full_is_told_and_tried_again_until_it_has_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shoal_workers.trainer.driver.STORE_RETRY_SECONDS", 0.01)
    data, gateway, disk = FakeDataManager(total=1), FakeGateway(), FakeDisk()
    async with serving(data.service()) as data_url, serving(gateway.service()) as gateway_url:
        config = trainer_config(tmp_path, steps=1)
        learner = FakeLearner(config, disk, lambda point: None)
        async with ServiceClient(data_url) as to_data, ServiceClient(gateway_url) as to_gateway:
            driver = TrainerDriver(config, learner, DataManager(to_data, "t"), Gateway(to_gateway))
            learner.full = {"save"}
            async with running(driver):
                await until(lambda: bool(driver.status.findings))
                assert [finding.reason for finding in driver.status.findings] == ["StorageFailed"]
                assert (data.consumed, disk.checkpoints) == ([], {})
                learner.full = set()
                await until(lambda: is_done(driver))
                assert driver.status.findings == []
    assert (data.consumed, list(disk.checkpoints)) == (["b0"], [1])


async def test_updates_that_are_skipped_again_and_again_end_training_with_the_batch_kept(tmp_path: Path) -> None:
    data, gateway, disk = FakeDataManager(total=9), FakeGateway(), FakeDisk()
    async with serving(data.service()) as data_url, serving(gateway.service()) as gateway_url:
        config = trainer_config(tmp_path, steps=9)
        learner = FakeLearner(config, disk, lambda point: None)
        learner.figures = {"loss": 0.0, "updates_skipped": 1.0}
        async with ServiceClient(data_url) as to_data, ServiceClient(gateway_url) as to_gateway:
            driver = TrainerDriver(config, learner, DataManager(to_data, "t"), Gateway(to_gateway))
            async with running(driver):
                await until(lambda: is_done(driver))
                (finding,) = driver.status.findings
    assert (finding.fatal, finding.reason, driver.status.step) == (True, "NonFiniteGradient", 3)
    assert "batch b2" in finding.message
    assert sorted(path.name for path in (tmp_path / "skipped").iterdir()) == ["b0.batch", "b1.batch", "b2.batch"]
    # None of them comes back, in this process or in the next.
    assert data.consumed == ["b0", "b1", "b2"]
    assert max(disk.checkpoints.values(), key=lambda kept: kept[0].step)[0].non_finite == 3
