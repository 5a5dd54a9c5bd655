"""The data manager, one situation at a time."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shoal.api.services.trajectories import (
    Assignment,
    Batch,
    BatchAck,
    EpisodeKind,
    EpisodeOutcome,
    ProgressReport,
    ReconcileRequest,
    TrainedBatch,
)
from shoal_workers.data.manager import DataManager
from shoal_workers.data.store import SCHEMA_VERSION, Store, StoreError
from shoal_workers.service import ProblemError
from tests.data.play import FakeClock, ask, claim, config, fault, hand_back, record


class Desk:
    """A data manager that can be opened again, with different settings too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.manager: DataManager | None = None

    def open(self, **changes: Any) -> DataManager:
        self.close()
        self.manager = DataManager(config(self.folder, **changes), self.clock)
        return self.manager

    def close(self) -> None:
        if self.manager is not None:
            self.manager.close()
            self.manager = None


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


async def take(manager: DataManager, count: int = 1) -> list[Assignment]:
    return (await manager.claim(claim(count))).assignments


async def play(manager: DataManager, count: int, version: int = 0) -> list[Assignment]:
    """Claim and post `count` episodes, with rewards 0, 1, 0, 1, ..."""
    claimed = await take(manager, count)
    for index, assignment in enumerate(claimed):
        await manager.record(record(assignment, float(index % 2), version))
    return claimed


async def batch_of(manager: DataManager, version: int = 0, **more: Any) -> Batch:
    batch = await manager.lease_batch(ask(version, **more))
    assert batch is not None
    return batch


async def step(manager: DataManager, number: int) -> None:
    """One whole step of a trainer."""
    await play(manager, 4, number - 1)
    batch = await batch_of(manager, number - 1)
    await manager.acknowledge(batch.id, BatchAck(step=number, version=number))
    await manager.progress(ProgressReport(step=number, version=number, metrics={"loss": 0.5}))


async def test_an_assignment_says_what_to_do(desk: Desk) -> None:
    (assignment,) = await take(desk.open(max_turns=5, temperature=0.7))
    assert assignment.environment == "lake"
    assert assignment.kind is EpisodeKind.TRAIN
    assert set(assignment.task) == {"seed"}
    assert (assignment.max_turns, assignment.temperature, assignment.attempt) == (5, 0.7, 1)
    assert assignment.lease_expires_at == desk.clock.now + 30.0


async def test_all_episodes_of_a_group_have_one_task(desk: Desk) -> None:
    claimed = await take(desk.open(group_size=4), 8)
    tasks = {group: {str(each.task) for each in claimed if each.group_id == group} for group in ("1", "2")}
    assert [len(found) for found in tasks.values()] == [1, 1]


async def test_no_more_is_handed_out_than_may_be_stale(desk: Desk) -> None:
    manager = desk.open()
    assert len(await take(manager, 100)) == 2 * 2 * 2
    assert await take(manager) == []


async def test_an_assignment_that_is_not_renewed_is_handed_out_again(desk: Desk) -> None:
    manager = desk.open(max_staleness=0, batch_groups=1)
    first, other = await take(manager, 2)
    await manager.record(record(other))
    desk.clock.now += 29
    assert (await manager.renew(first.id, first.attempt)).lease_expires_at == desk.clock.now + 30
    desk.clock.now += 29
    assert await take(manager) == []
    desk.clock.now += 2
    (again,) = await take(manager)
    assert (again.id, again.attempt) == (first.id, 2)
    with pytest.raises(ProblemError) as caught:
        await manager.renew(first.id, first.attempt)
    assert caught.value.name == "assignment-lost"


async def test_what_the_first_agent_says_of_a_lost_assignment_is_not_heard(desk: Desk) -> None:
    manager = desk.open(max_staleness=0, batch_groups=1)
    first = (await take(manager, 2))[0]
    desk.clock.now += 31
    again = (await take(manager, 2))[0]
    assert again.id == first.id
    await manager.fail(first.id, fault(first))
    await manager.hand_back(first.id, hand_back(first, 0))
    assert (await manager.status()).outcomes == {}
    assert await take(manager, 2) == []
    assert (await manager.renew(again.id, again.attempt)).id == again.id


async def test_an_answer_counts_once_whoever_gives_it(desk: Desk) -> None:
    manager = desk.open()
    (assignment,) = await take(manager)
    desk.clock.now += 31
    late = await manager.record(record(assignment, 1.0))
    twice = await manager.record(record(assignment, 0.0))
    assert (late.duplicate, twice.duplicate) == (False, True)
    assert (await manager.report()).proof.recorded == 1


async def test_a_fault_is_no_trajectory_and_is_tried_again(desk: Desk) -> None:
    manager = desk.open(max_staleness=0, batch_groups=1)
    first, _ = await take(manager, 2)
    await manager.fail(first.id, fault(first, EpisodeOutcome.GRADER_ERROR))
    await manager.fail(first.id, fault(first, EpisodeOutcome.GRADER_ERROR))
    (again,) = await take(manager, 2)
    assert again.id == first.id
    status = await manager.status()
    assert status.outcomes == {"grader_error": 1}
    assert status.trajectories == {"assigned": 2}


async def test_faults_in_a_row_halt_the_job_for_good(desk: Desk) -> None:
    manager = desk.open()
    running = (await take(manager, 2))[1]
    for _ in range(3):
        desk.clock.now += 1
        (assignment,) = await take(manager)
        desk.clock.now += 1
        await manager.fail(assignment.id, fault(assignment))
    status = await manager.status()
    assert "3 faults in a row" in status.halted
    assert "environment_error: broken glass" in status.halted
    assert (await manager.claim(claim())).done
    await manager.record(record(running))
    assert (await desk.open().status()).halted == status.halted


async def test_one_dead_member_is_one_fault(desk: Desk) -> None:
    manager = desk.open()
    claimed = await take(manager, 8)
    desk.clock.now += 5
    for assignment in claimed:
        await manager.fail(assignment.id, fault(assignment))
    status = await manager.status()
    assert status.consecutive_faults == 1
    assert status.outcomes == {"environment_error": 8}


async def test_a_task_that_always_fails_is_given_up(desk: Desk) -> None:
    manager = desk.open()
    bad, *good = await take(manager, 8)
    for attempt in range(3):
        desk.clock.now += 1
        if attempt:
            (bad,) = await take(manager)
        await manager.fail(bad.id, fault(bad))
        await manager.record(record(good[attempt]))
    assert not (await manager.status()).halted
    report = await manager.report()
    assert report.dropped == {"faults": 1}
    assert report.proof.holds
    assert {each.group_id for each in await take(manager, 8)} == {"5"}, "its place is another's"


async def test_a_handed_back_episode_goes_on_where_it_was(desk: Desk) -> None:
    manager = desk.open()
    (assignment,) = await take(manager)
    await manager.hand_back(assignment.id, hand_back(assignment, 0))
    (again,) = await take(manager)
    assert again.id == assignment.id
    assert again.resume is not None
    assert again.resume.actions == [{"text": "left"}]
    await manager.fail(again.id, fault(again))
    assert (await take(manager))[0].resume is None


async def test_a_prefix_that_is_too_old_is_not_gone_on_with(desk: Desk) -> None:
    manager = desk.open()
    (assignment,) = await take(manager)
    await manager.hand_back(assignment.id, hand_back(assignment, 0))
    await manager.progress(ProgressReport(step=2, version=2))
    assert (await take(manager))[0].resume is None


async def test_groups_without_variance_are_dropped_where_asked(desk: Desk) -> None:
    manager = desk.open(zero_variance="Drop")
    for assignment in await take(manager, 2):
        accepted = await manager.record(record(assignment, 1.0))
    assert accepted.state == "dropped"
    assert (await manager.status()).dropped == {"zero_variance": 2}
    assert len(await take(manager, 100)) == 8, "its place is free again"


async def test_a_batch_holds_whole_groups_once(desk: Desk) -> None:
    manager = desk.open()
    await play(manager, 3)
    assert await manager.lease_batch(ask()) is None
    await play(manager, 5)
    first, second = await batch_of(manager), await batch_of(manager)
    ids = [each.id for batch in (first, second) for group in batch.groups for each in group.trajectories]
    assert len(set(ids)) == len(ids) == 8
    assert all(len(group.trajectories) == 2 for group in first.groups)
    assert await manager.lease_batch(ask()) is None


async def test_a_lost_answer_is_given_again(desk: Desk) -> None:
    manager = desk.open()
    await play(manager, 8)
    first = await batch_of(manager, key="a")
    assert (await batch_of(manager, key="a")).model_copy(update={"expires_at": first.expires_at}) == first
    assert (await batch_of(manager, key="b")).id != first.id


async def test_an_answer_that_is_asked_for_too_late_is_a_new_one(desk: Desk) -> None:
    manager = desk.open()
    await play(manager, 4)
    first = await batch_of(manager, key="a")
    desk.clock.now += 61
    again = await batch_of(manager, key="a")
    assert again.id != first.id
    assert {group.id for group in again.groups} == {group.id for group in first.groups}


async def test_more_groups_than_are_ever_kept(desk: Desk) -> None:
    manager = desk.open()
    with pytest.raises(ProblemError, match="5 asked for, but at most 4"):
        await manager.lease_batch(ask(groups=5))


async def test_a_batch_that_is_not_renewed_goes_back(desk: Desk) -> None:
    manager = desk.open()
    await play(manager, 4)
    first = await batch_of(manager)
    desk.clock.now += 61
    second = await batch_of(manager)
    assert {group.id for group in second.groups} == {group.id for group in first.groups}
    with pytest.raises(ProblemError) as caught:
        await manager.acknowledge(first.id, BatchAck(step=1, version=1))
    assert caught.value.name == "batch-lost"
    assert (await manager.acknowledge(second.id, BatchAck(step=1, version=1))).duplicate is False
    assert (await manager.acknowledge(second.id, BatchAck(step=1, version=1))).duplicate is True


async def test_a_trainer_that_waits_keeps_what_no_checkpoint_holds_yet(desk: Desk) -> None:
    manager = desk.open()
    await play(manager, 4)
    first = await batch_of(manager, key="a")
    await manager.renew_batch(first.id)
    for _ in range(4):
        desk.clock.now += 50
        assert await manager.lease_batch(ask(1, key="b")) is None
    assert (await manager.renew_batch(first.id)).id == first.id


async def test_a_batch_that_nobody_knows_of_goes_back_though_its_trainer_lives(desk: Desk) -> None:
    manager = desk.open()
    await play(manager, 4)
    lost = await batch_of(manager, key="a")
    desk.clock.now += 61
    again = await batch_of(manager, key="b")
    assert {group.id for group in again.groups} == {group.id for group in lost.groups}


async def test_faults_in_a_row_slow_down_what_is_handed_out(desk: Desk) -> None:
    manager = desk.open(max_consecutive_faults=10)
    for _ in range(3):
        desk.clock.now += 1
        (assignment,) = await take(manager)
        desk.clock.now += 0.1
        await manager.fail(assignment.id, fault(assignment))
    assert await take(manager) == []
    desk.clock.now += 0.9
    assert await take(manager) == []
    desk.clock.now += 0.2
    (assignment,) = await take(manager)
    await manager.record(record(assignment))
    assert len(await take(manager)) == 1


async def test_trained_batches_leave_room_before_they_are_acknowledged(desk: Desk) -> None:
    manager = desk.open(steps=100)
    for version in range(10):
        assert len(await play(manager, 4, version)) == 4, "the trainer would wait for ever"
        await batch_of(manager, version, key=str(version))
        await manager.progress(ProgressReport(step=version + 1, version=version + 1))


async def test_reconcile_consumes_what_the_checkpoint_holds(desk: Desk) -> None:
    manager = desk.open()
    await play(manager, 8)
    first, second = await batch_of(manager), await batch_of(manager)
    trained = TrainedBatch(id=first.id, step=1, version=1)
    request = ReconcileRequest(trainer="trainer", step=1, version=1, consumed=[trained])
    agreed = await manager.reconcile(request)
    assert (agreed.consumed, agreed.released) == ([first.id], [second.id])
    assert (await manager.reconcile(request)).consumed == []
    assert {group.id for group in (await batch_of(manager, 1)).groups} == {group.id for group in second.groups}
    assert (await manager.report()).proof.trained == 4


async def test_a_batch_in_the_checkpoint_is_consumed_though_its_lease_ran_out(desk: Desk) -> None:
    manager = desk.open()
    await play(manager, 4)
    batch = await batch_of(manager)
    await manager.release(batch.id)
    trained = TrainedBatch(id=batch.id, step=1, version=1)
    request = ReconcileRequest(trainer="trainer", step=1, version=1, consumed=[trained])
    assert (await manager.reconcile(request)).consumed == [batch.id]
    assert await manager.lease_batch(ask(1)) is None


async def test_batches_of_one_checkpoint_are_booked_under_the_steps_that_trained_them(desk: Desk) -> None:
    manager = desk.open(max_staleness=4)
    await play(manager, 12)
    batches = [await batch_of(manager, version) for version in range(3)]
    await manager.acknowledge(batches[0].id, BatchAck(step=1, version=1))
    trained = [TrainedBatch(id=batch.id, step=step, version=step) for step, batch in enumerate(batches, 1)]
    await manager.reconcile(ReconcileRequest(trainer="trainer", step=3, version=3, consumed=trained))
    for step in (1, 2, 3):
        await manager.progress(ProgressReport(step=step, version=step))
    report = await manager.report()
    assert [(point.step, point.trajectories) for point in report.steps] == [(1, 4), (2, 4), (3, 4)]
    assert report.proof.holds


def test_a_trainer_that_names_batches_by_their_ids_alone_is_understood() -> None:
    old = {"trainer": "trainer", "step": 3, "version": 5, "consumed": ["a"]}
    assert ReconcileRequest.model_validate(old).consumed == [TrainedBatch(id="a", step=3, version=5)]
    with pytest.raises(ValidationError, match=r"consumed\.0"):
        ReconcileRequest.model_validate(old | {"consumed": [7]})


async def test_reconcile_takes_back_steps_that_were_not_saved(desk: Desk) -> None:
    manager = desk.open()
    await step(manager, 1)
    await manager.progress(ProgressReport(step=2, version=2))
    await manager.reconcile(ReconcileRequest(trainer="trainer", step=1, version=3))
    status = await manager.status()
    assert (status.step, status.version) == (1, 2)
    assert [point.step for point in (await manager.report()).steps] == [1]


async def test_what_is_too_old_is_dropped_and_its_task_is_run_again(desk: Desk) -> None:
    manager = desk.open()
    played = await play(manager, 3)
    await manager.progress(ProgressReport(step=2, version=2))
    assert await manager.lease_batch(ask(2)) is None
    report = await manager.report()
    assert report.dropped == {"stale": 3}
    assert report.proof.holds
    again = await take(manager, 4)
    assert [each.task_id for each in again] == [played[0].task_id] * 2 + [played[2].task_id] * 2
    late = await manager.record(record((await take(manager))[0], version=2))
    assert late.state == "open"


async def test_training_ends_with_the_last_step(desk: Desk) -> None:
    manager = desk.open(steps=2)
    await step(manager, 1)
    running = (await take(manager))[0]
    await play(manager, 4, 1)
    await step(manager, 2)
    status = await manager.status()
    assert status.complete
    assert status.trained == 8
    assert (await manager.claim(claim())).done
    assert await manager.lease_batch(ask(2)) is None
    assert (await manager.record(record(running, version=2))).state == "cancelled"
    assert (desk.folder / "report" / "report.json").is_file()
    assert (await manager.report()).proof.holds


async def test_training_ends_with_success(desk: Desk) -> None:
    manager = desk.open(steps=100, success={"reward": 0.5, "window": 2})
    await step(manager, 1)
    assert not (await manager.status()).complete
    await step(manager, 2)
    status = await manager.status()
    assert status.complete
    assert (status.step, status.reward.window) == (2, 0.5)


async def test_the_report_is_written_even_if_the_last_process_did_not_come_to_it(desk: Desk) -> None:
    manager = desk.open(steps=1)
    await step(manager, 1)
    file = desk.folder / "report" / "report.json"
    file.unlink()
    desk.open(steps=1)
    assert '"holds"' not in file.read_text()
    assert '"trained": 4' in file.read_text()


async def test_evaluations_come_first_and_last_and_are_never_trained_on(desk: Desk) -> None:
    manager = desk.open(steps=1, evaluation={"episodes": 2, "seeds_start": 50, "temperature": 0.0, "optimum": 0.9})
    first = await take(manager, 2)
    assert [each.kind for each in first] == [EpisodeKind.EVALUATE] * 2
    assert [(each.task["seed"], each.temperature, each.min_version) for each in first] == [(50, 0.0, 0), (51, 0.0, 0)]
    await play(manager, 4)
    assert await manager.lease_batch(ask()) is None, "no training before version 0 is measured"
    await manager.record(record(first[0], 1.0))
    await manager.record(record(first[1], 0.5))
    await step(manager, 1)
    assert not (await manager.status()).complete
    last = await take(manager, 5)
    assert [(each.task["seed"], each.min_version) for each in last] == [(50, 1), (51, 1)]
    assert (await manager.record(record(last[0], 1.0, version=0))).state == "pending"
    (again,) = await take(manager)
    assert again.id == last[0].id
    for assignment in last:
        await manager.record(record(assignment, 1.0, version=1))
    status, report = await manager.status(), await manager.report()
    assert status.complete
    assert (status.evaluation.initial, status.evaluation.final) == (0.5, 1.0)
    assert [(point.purpose, point.oldest_version, point.newest_version) for point in report.evaluations] == [
        ("initial", 0, 0),
        ("final", 1, 1),
    ]
    assert report.optimum == 0.9
    assert report.proof.recorded == report.proof.trained + report.proof.dropped


async def test_periodic_evaluations(desk: Desk) -> None:
    manager = desk.open(steps=3, evaluation={"episodes": 1, "every": 2})
    await play(manager, 1)
    for number in (1, 2, 3):
        if number == 3:
            await play(manager, 1, 2)
        await step(manager, number)
    await play(manager, 1, 3)
    points = (await manager.report()).evaluations
    assert [(point.purpose, point.version) for point in points] == [("initial", 0), ("periodic", 2), ("final", 3)]


async def test_the_report_tells_the_curve(desk: Desk) -> None:
    manager = desk.open(steps=2)
    await step(manager, 1)
    await step(manager, 2)
    report = await manager.report()
    assert [(point.step, point.reward, point.trajectories, point.turns) for point in report.steps] == [
        (1, 0.5, 4, 1.0),
        (2, 0.5, 4, 1.0),
    ]
    assert report.steps[0].metrics == {"loss": 0.5}
    assert report.staleness == {0: 8}
    assert report.outcomes == {"ok": 8}


async def test_long_polls_end_as_soon_as_there_is_something(desk: Desk) -> None:
    manager = desk.open(max_staleness=0, batch_groups=1, assignment_seconds=30)
    first = await take(manager, 2)
    batch = asyncio.create_task(manager.lease_batch(ask(groups=1, wait=60)))
    more = asyncio.create_task(manager.claim(claim(wait=60)))
    await asyncio.sleep(0.05)
    assert not batch.done()
    assert not more.done()
    for assignment in first:
        await manager.record(record(assignment))
    leased = await asyncio.wait_for(batch, 2)
    assert leased is not None
    await manager.acknowledge(leased.id, BatchAck(step=1, version=1))
    assert (await asyncio.wait_for(more, 2)).assignments


async def test_dart_allocates_less_to_what_is_mastered(desk: Desk) -> None:
    manager = desk.open(allocator={"name": "dart"}, group_size=4, tasks={"inline": [{"seed": 1}]}, batch_groups=1)
    for assignment in await take(manager, 4):
        await manager.record(record(assignment, 1.0))
    claimed = await take(manager, 10)
    assert len(claimed) == 2


async def test_a_record_without_sampled_tokens_is_refused(desk: Desk) -> None:
    manager = desk.open()
    (assignment,) = await take(manager)
    with pytest.raises(ProblemError, match="no token was sampled"):
        await manager.record(record(assignment).model_copy(update={"segments": []}))
    with pytest.raises(ProblemError, match="no assignment nonsense"):
        await manager.record(record("nonsense"))
    with pytest.raises(ProblemError, match="no batch nonsense"):
        await manager.renew_batch("nonsense")


def test_the_schema_itself_refuses_to_train_twice(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    store.connection.execute("PRAGMA foreign_keys = OFF")
    insert = "INSERT INTO trainings (trajectory_id, batch_id, step, staleness) VALUES ('a', ?, 1, 0)"
    store.run_now(lambda: store.connection.execute(insert, ("b1",)))
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        store.run_now(lambda: store.connection.execute(insert, ("b2",)))
    store.close()


def test_a_store_of_another_time_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    store = Store(file)
    store.connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    store.close()
    with pytest.raises(StoreError, match=f"schema version {SCHEMA_VERSION + 1}"):
        Store(file)
    file.write_text("this is no database, and has never been one" * 100)
    with pytest.raises(StoreError, match="not a database"):
        Store(file)


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")

    def half() -> None:
        store.connection.execute("INSERT INTO meta (key, value) VALUES ('a', 'b')")
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError):
        store.run_now(half)
    assert store.run_now(lambda: store.connection.execute("SELECT COUNT(*) FROM meta").fetchone()[0]) == 0
    store.close()
