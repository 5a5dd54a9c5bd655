"""Whose fault it is: counted by cause, a task that nobody can play is set aside, flat groups are told."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.api.services.trajectories import BatchAck, EpisodeOutcome, ProgressReport
from shoal_workers.data.counters import BACKFILL, counts
from shoal_workers.data.difficulty import Difficulty, TaskRecord
from shoal_workers.data.flatness import kind_of
from shoal_workers.data.manager import DataManager
from shoal_workers.data.payloads import Limits, Payloads
from shoal_workers.data.store import Store
from shoal_workers.service.clock import SteadyClock
from tests.data.play import FakeClock, ask, claim, config, fault, record

ENGINE, ENVIRONMENT = EpisodeOutcome.ENGINE_ERROR, EpisodeOutcome.ENVIRONMENT_ERROR


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def opened(tmp_path: Path, clock: FakeClock) -> Iterator[Any]:
    made: list[DataManager] = []

    def open_manager(**changes: Any) -> DataManager:
        made.append(DataManager(config(tmp_path, **changes), clock))
        return made[-1]

    yield open_manager
    for each in made:
        each.close()


async def fail_one(manager: DataManager, clock: FakeClock, outcome: EpisodeOutcome) -> None:
    clock.now += 20
    (assignment,) = (await manager.claim(claim())).assignments
    clock.now += 1
    await manager.fail(assignment.id, fault(assignment, outcome))


async def test_faults_are_counted_by_cause(opened: Any, clock: FakeClock) -> None:
    manager = opened(max_consecutive_faults=4)
    for outcome in (ENGINE, ENVIRONMENT, ENGINE, ENVIRONMENT, ENGINE):
        await fail_one(manager, clock, outcome)
    status = await manager.status()
    assert (status.consecutive_faults, status.halted) == (3, "")
    (finding,) = status.findings
    assert finding.reason == "EngineFaults"
    assert "3 episodes in a row" in finding.message
    await fail_one(manager, clock, ENGINE)
    halted = (await manager.status()).halted
    assert halted.startswith("4 faults in a row of engine_error;")


async def test_what_works_again_is_no_longer_told(opened: Any, clock: FakeClock) -> None:
    manager = opened(max_consecutive_faults=10)
    for _ in range(3):
        await fail_one(manager, clock, ENVIRONMENT)
    assert "environment_error of lake" in (await manager.status()).findings[0].message
    clock.now += 20
    (assignment,) = (await manager.claim(claim())).assignments
    await manager.record(record(assignment))
    status = await manager.status()
    assert (status.findings, status.consecutive_faults) == ([], 0)


async def test_one_task_that_nobody_can_play_does_not_stop_the_others(opened: Any, clock: FakeClock) -> None:
    tasks = {"inline": [{"id": "good"}, {"id": "long"}]}
    manager = opened(
        tasks=tasks, sampler={"name": "sequential"}, max_staleness=3, batch_groups=4, max_consecutive_faults=3
    )
    for _ in range(40):
        clock.now += 1
        for index, assignment in enumerate((await manager.claim(claim(2))).assignments):
            if assignment.task_id == "long":
                await manager.fail(assignment.id, fault(assignment, EpisodeOutcome.UNFIT_TASK))
            else:
                await manager.record(record(assignment, float(index)))
    status = await manager.status()
    assert status.halted == ""
    assert (status.tasks_set_aside, status.set_aside) == (1, {"long": "broken glass"})
    assert [(each.reason, each.fatal) for each in status.findings] == [("TasksSetAside", False)]
    assert status.trajectories["grouped"] > 8
    assert status.outcomes["unfit_task"] == 1


async def test_a_job_whose_tasks_are_all_set_aside_says_so(opened: Any) -> None:
    manager = opened(tasks={"inline": [{"id": "long"}]})
    (assignment,) = (await manager.claim(claim())).assignments
    await manager.fail(assignment.id, fault(assignment, EpisodeOutcome.UNFIT_TASK))
    assert (await manager.claim(claim())).assignments == []
    assert [each.reason for each in (await manager.status()).findings if each.fatal] == ["NoTaskLeft"]


async def test_an_evaluation_goes_on_without_an_episode_that_nobody_can_play(opened: Any) -> None:
    manager = opened(evaluation={"episodes": 2})
    first, second = (await manager.claim(claim(2))).assignments
    await manager.record(record(first, 1.0))
    await manager.fail(second.id, fault(second, EpisodeOutcome.UNFIT_TASK))
    status = await manager.status()
    assert status.evaluation.initial == 1.0
    assert status.tasks_set_aside == 1


@pytest.mark.parametrize(
    ("rewards", "kind"), [([0.0, 1.0], "m"), ([1.0, 1.0], "r"), ([0.0, 0.0], "w"), ([0.5, 0.5], "w"), ([5.0], "r")]
)
def test_kinds_of_groups(rewards: list[float], kind: str) -> None:
    assert kind_of(rewards, 1.0) == kind


async def test_a_job_that_can_learn_nothing_says_so_until_it_can(opened: Any) -> None:
    manager = opened(zero_variance="Drop", batch_groups=1)

    async def play(*rewards: float) -> None:
        for assignment, reward in zip((await manager.claim(claim(2))).assignments, rewards, strict=True):
            await manager.record(record(assignment, reward))

    for _ in range(15):
        await play(0.0, 0.0)
    assert (await manager.status()).findings == []
    await play(1.0, 1.0)
    (finding,) = (await manager.status()).findings
    assert finding.reason == "NothingToLearn"
    assert "last 16 groups" in finding.message
    assert "(6% all right, 94% all wrong)" in finding.message
    assert "easier tasks" in finding.message
    await play(0.0, 1.0)
    assert (await manager.status()).findings == []


async def test_success_is_a_reward_of_at_least_the_threshold(opened: Any) -> None:
    tasks = {"inline": [{"id": "a"}], "success_threshold": 50.0}
    manager = opened(allocator={"name": "dart"}, group_size=8, tasks=tasks, batch_groups=1, max_staleness=0)
    for assignment in (await manager.claim(claim(8))).assignments:
        await manager.record(record(assignment, 40.0))
    await manager.lease_batch(ask(groups=1))
    await manager.progress(ProgressReport(step=1, version=1))
    assert len((await manager.claim(claim(20))).assignments) == 8, "40 of 50 is no success, so the task is not mastered"


async def test_all_members_of_a_group_start_alike(opened: Any) -> None:
    manager = opened(tasks={"inline": [{"goal": "x"}, {"goal": "y", "seed": 5}]}, sampler={"name": "sequential"})
    claimed = (await manager.claim(claim(4))).assignments
    seeds = [each.task["seed"] for each in claimed]
    assert seeds[0] == seeds[1]
    assert seeds[0] >= 0
    assert seeds[2:] == [5, 5]


def test_a_steady_clock_does_not_follow_a_wall_clock_that_is_set() -> None:
    wall, ticks = [1000.0], [5.0]
    clock = SteadyClock(lambda: wall[0], lambda: ticks[0])
    assert clock() == 1000.0
    wall[0], ticks[0] = -2600.0, 8.0
    assert clock() == 1003.0


async def test_a_restart_gives_what_is_held_a_whole_term_whatever_the_clock_says(
    clock: FakeClock, tmp_path: Path
) -> None:
    for jump in (3600, -3600):
        manager = DataManager(config(tmp_path, max_staleness=0, batch_groups=1), clock)
        held = (await manager.claim(claim(2))).assignments
        manager.close()
        clock.now += jump
        again = DataManager(config(tmp_path, max_staleness=0, batch_groups=1), clock)
        assert (await again.claim(claim(2))).assignments == []
        for assignment in held:
            await again.renew(assignment.id, assignment.attempt)
        clock.now += 31
        assert len((await again.claim(claim(2))).assignments) == 2
        again.close()
        clock.now += 31


async def test_counters_are_what_the_rows_say(opened: Any, clock: FakeClock) -> None:
    """The triggers against the migration's queries, which count the rows themselves."""
    manager = opened(zero_variance="Drop", max_staleness=3, evaluation={"episodes": 1}, max_consecutive_faults=99)
    for number in range(3):
        clock.now += 20
        claimed = (await manager.claim(claim(12))).assignments
        for index, assignment in enumerate(claimed[:-1]):
            if index % 5 == 4:
                await manager.fail(assignment.id, fault(assignment))
            else:
                await manager.record(record(assignment, float(index % 2)))
        batch = await manager.lease_batch(ask(number))
        assert batch is not None
        await manager.acknowledge(batch.id, BatchAck(step=number + 1, version=number + 1))
        await manager.progress(ProgressReport(step=number + 1, version=number + 1))
    connection = manager.store.connection
    names = ("state", "outcome", "dropped", "staleness")
    kept = {name: counts(connection, name) for name in names}
    steps = [tuple(row) for row in connection.execute("SELECT * FROM step_rewards")]

    def recount() -> None:
        connection.execute("DELETE FROM counters")
        connection.execute("DELETE FROM step_rewards")
        for query in BACKFILL.split(";"):
            connection.execute(query)

    manager.store.run_now(recount)
    assert {name: counts(connection, name) for name in names} == kept
    assert [tuple(row) for row in connection.execute("SELECT * FROM step_rewards")] == steps
    assert kept["staleness"]


def test_difficulty_survives_and_forgets(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    difficulty = Difficulty(store.connection)
    for number in range(100):
        difficulty.add("a", success=number >= 90, turns=number, version=number)
    store.close()
    store = Store(tmp_path / "store.sqlite")
    known = Difficulty(store.connection).of("a")
    assert (known.attempts, known.rate, known.last_version) == (100, 10 / 64, 99)
    assert known.lengths == tuple(range(90, 100))
    assert 0.0 < known.mean < 0.5
    assert Difficulty(store.connection).of("b") == TaskRecord("b")
    assert TaskRecord("b").mean == 0.5
    store.close()


def test_finished_tokens_are_removed_oldest_first_and_live_ones_never(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    connection = store.connection
    connection.execute("PRAGMA foreign_keys = OFF")
    payloads = Payloads(connection, tmp_path / "tokens", file_bytes=100)
    for number in range(6):
        connection.execute(
            "INSERT INTO groups (id, task_id, environment, kind, size, state, opened_version)"
            " VALUES (?, 't', 'e', 'train', 1, 'open', 0)",
            (number,),
        )
        connection.execute(
            "INSERT INTO trajectories (id, group_id, episode_id, reward, outcome, turns, oldest_version,"
            " newest_version, recorded_at, record) VALUES (?, ?, 'e', 0, 'ok', 1, 0, 0, 0, '')",
            (str(number), number),
        )
        payloads.write(str(number), bytes([number]) * 100, newest_version=number, top_token=1)
    for number in (0, 1, 3):
        payloads.finished(number, now=10.0 * number)
    assert payloads.sweep(100.0, 9, Limits()) == []
    assert payloads.sweep(100.0, 9, Limits(bytes=600)) == []
    assert payloads.sweep(100.0, 9, Limits(bytes=500)) == [1]
    assert payloads.sweep(100.0, 9, Limits(seconds=80.0)) == [2]
    assert payloads.sweep(100.0, 9, Limits(versions=5)) == [4]
    assert payloads.sweep(100.0, 9, Limits(bytes=0)) == []
    assert [payloads.read(str(number)) for number in (0, 2)] == [None, bytes([2]) * 100]
    assert len(list((tmp_path / "tokens").iterdir())) == 3
    store.close()


async def test_a_store_that_takes_nothing_is_told_and_nothing_is_lost(opened: Any, tmp_path: Path) -> None:
    manager = opened()
    first = (await manager.claim(claim(2))).assignments[0]
    folder = tmp_path / "store" / "tokens"
    folder.mkdir()
    folder.rename(tmp_path / "aside")
    folder.write_text("in the way")
    with pytest.raises(Exception, match="store-failed") as caught:
        await manager.record(record(first))
    assert caught.value.status == 503  # type: ignore[attr-defined]
    assert [each.reason for each in (await manager.status()).findings] == ["StoreFailed"]
    folder.unlink()
    assert not (await manager.record(record(first))).duplicate
    assert (await manager.status()).findings == []


def test_a_store_of_the_release_before_is_counted_when_it_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    Store(file).close()
    with sqlite3.connect(file) as old:
        old.execute("DROP TRIGGER count_fault")
        values = "('a', 'engine_error', '', 0, 1)"
        old.execute(f"INSERT INTO faults (assignment_id, outcome, detail, at, counted) VALUES {values}")
        old.execute("PRAGMA user_version = 2")
    store = Store(file)
    assert counts(store.connection, "outcome") == {"engine_error": 1}
    store.close()
