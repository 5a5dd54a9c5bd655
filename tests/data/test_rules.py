"""The pure rules: states, staleness, allocation, tasks."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.api.services.roles.data import SeedRange, TaskConfig
from shoal_workers.data.faults import pause_after
from shoal_workers.data.staleness import group_capacity, is_stale, may_open, staleness
from shoal_workers.data.states import (
    AssignmentState,
    GroupState,
    IllegalStepError,
    check_assignment,
    check_group,
)
from shoal_workers.data.tasks import load_tasks
from shoal_workers.service import ConfigurationError


def test_finished_states_are_final() -> None:
    for state in (AssignmentState.RECORDED, AssignmentState.CANCELLED):
        for after in AssignmentState:
            with pytest.raises(IllegalStepError, match=f"from {state} to {after}"):
                check_assignment(state, after)
    for end in (GroupState.CONSUMED, GroupState.DROPPED, GroupState.MEASURED):
        for then in GroupState:
            with pytest.raises(IllegalStepError):
                check_group(end, then)


def test_the_way_of_a_group() -> None:
    for before, after in pairwise((GroupState.OPEN, GroupState.COMPLETE, GroupState.LEASED, GroupState.CONSUMED)):
        check_group(before, after)
    with pytest.raises(IllegalStepError):
        check_group(GroupState.OPEN, GroupState.LEASED)


@given(st.integers(0, 5), st.integers(1, 64))
def test_capacity_is_what_the_next_steps_consume(max_staleness: int, batch: int) -> None:
    capacity = group_capacity(max_staleness, batch)
    assert capacity == (max_staleness + 1) * batch
    assert may_open(capacity - 1, max_staleness, batch)
    assert not may_open(capacity, max_staleness, batch)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 5))
def test_staleness(trainer: int, oldest: int, bound: int) -> None:
    assert staleness(trainer, oldest) == max(0, trainer - oldest)
    assert is_stale(trainer, oldest, bound) == (trainer - oldest > bound)


def test_faults_in_a_row_pause_longer_and_longer() -> None:
    assert [pause_after(count) for count in range(9)] == [0.0, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_tasks_from_seeds() -> None:
    pool = load_tasks(TaskConfig(seeds=SeedRange(start=5, count=3)))
    assert pool.size == 3
    assert [pool.at(index).body for index in range(3)] == [{"seed": 5}, {"seed": 6}, {"seed": 7}]


def test_tasks_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"id": "a", "seed": 1}\n\n{"map": [1, 2]}\n')
    pool = load_tasks(TaskConfig(file=str(file)))
    assert [pool.at(index).id for index in range(pool.size)] == ["a", "task-1"]
    assert pool.at(1).body == {"map": [1, 2]}


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}\n[1]\n", ":2: not a JSON object"), ("{nonsense\n", "Expecting"), ("", "there is no task")],
)
def test_bad_task_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match="tasks") as caught:
        load_tasks(TaskConfig(file=str(file)))
    assert message in str(caught.value)


def test_missing_tasks() -> None:
    with pytest.raises(ConfigurationError, match="one of seeds, inline and file"):
        load_tasks(TaskConfig())
    with pytest.raises(ConfigurationError, match="No such file"):
        load_tasks(TaskConfig(file="/does/not/exist.jsonl"))
    assert load_tasks(TaskConfig(inline=[json.loads('{"seed": 3}')])).at(0).body == {"seed": 3}
