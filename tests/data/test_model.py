"""The store against a model of the world: agents, a trainer with checkpoints, crashes of everyone, time that passes."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

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
from shoal_workers.service import ProblemError
from tests.data.play import FakeClock, ask, claim, config, fault, hand_back, record

T = TypeVar("T")

STEPS, GROUPS, SIZE, STALENESS = 6, 2, 2, 1
CAPACITY = (STALENESS + 1) * GROUPS
EVALUATION = {"episodes": 2, "seeds_start": 1000}
SETTLING_ROUNDS = 400


def expect_gone(error: ProblemError) -> None:
    assert error.status == 410, str(error)


class World(RuleBasedStateMachine):
    """The trainer's memory is what its weights have seen; its disk is the memory at the last checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = FakeClock()
        self.loop = asyncio.new_event_loop()
        self.opened: list[DataManager] = []
        self.open()
        self.held: list[Assignment] = []
        self.posted: set[str] = set()
        self.batch: Batch | None = None
        self.lost_key = ""
        self.answer_due: str | None = None
        self.answer_until = 0.0
        self.keys = 0
        self.step = self.version = 0
        self.seen: list[str] = []
        self.consumed: list[TrainedBatch] = []
        self.unacknowledged: list[TrainedBatch] = []
        self.disk: tuple[int, list[str], list[TrainedBatch]] = (0, [], [])
        self.saves = True

    def open(self) -> None:
        changes = {
            "steps": STEPS,
            "batch_groups": GROUPS,
            "group_size": SIZE,
            "max_staleness": STALENESS,
            "zero_variance": "Drop",
            "evaluation": EVALUATION,
            "max_consecutive_faults": 1000,
        }
        self.manager = DataManager(config(self.folder, **changes), self.clock)
        self.opened.append(self.manager)

    def do(self, operation: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(operation)

    def outstanding(self) -> int:
        version = self.do(self.manager.status()).version
        return self.manager.store.run_now(lambda: self.manager._groups.outstanding(version))

    # --- agents

    @initialize(measured=st.booleans(), saves=st.booleans())
    def begin(self, measured: bool, saves: bool) -> None:
        """Half of the runs begin with training; in half of them the last steps are saved together."""
        self.saves = saves
        if measured:
            for each in self.do(self.manager.claim(claim(EVALUATION["episodes"]))).assignments:
                self.do(self.manager.record(record(each)))
                self.posted.add(each.id)

    @rule(count=st.integers(4, 8))
    def work(self, count: int) -> None:
        """Agents at their best: what is claimed is played and posted."""
        for index, each in enumerate(self.do(self.manager.claim(claim(count))).assignments):
            self.give(each, float(index % 2), self.version)

    def give(self, assignment: Assignment, reward: float, version: int) -> None:
        accepted = self.do(self.manager.record(record(assignment, reward, version)))
        if accepted.state not in ("cancelled", "pending"):
            assert accepted.duplicate == (assignment.id in self.posted)
            self.posted.add(assignment.id)

    @rule(count=st.integers(1, 6))
    def claim(self, count: int) -> None:
        before = self.outstanding()
        got = self.do(self.manager.claim(claim(count))).assignments
        assert len({each.id for each in got}) == len(got) <= count
        assert not {each.id for each in got} & self.posted
        self.held += got
        after = self.outstanding()
        assert after <= max(before, CAPACITY)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), reward=st.sampled_from((0.0, 1.0)), old=st.booleans(), keep=st.booleans())
    def post(self, data: st.DataObject, reward: float, old: bool, keep: bool) -> None:
        assignment = data.draw(st.sampled_from(self.held))
        # An episode may have begun under older weights; an answer may be posted twice, or by two agents.
        version = assignment.policy_version if old else self.version
        self.give(assignment, reward, version)
        if not keep:
            self.held.remove(assignment)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), how=st.sampled_from(("fail", "return", "renew", "vanish")))
    def not_post(self, data: st.DataObject, how: str) -> None:
        assignment = data.draw(st.sampled_from(self.held))
        try:
            if how == "fail":
                self.do(self.manager.fail(assignment.id, fault(assignment, EpisodeOutcome.ENGINE_ERROR)))
            elif how == "return":
                self.do(self.manager.hand_back(assignment.id, hand_back(assignment, self.version)))
            elif how == "renew":
                self.do(self.manager.renew(assignment.id, assignment.attempt))
                return
        except ProblemError as error:
            expect_gone(error)
        self.held.remove(assignment)

    # --- the trainer

    @precondition(lambda self: self.batch is None and self.step < STEPS)
    @rule(lost=st.booleans())
    def lease(self, lost: bool) -> None:
        if not self.lost_key:
            self.keys += 1
        key, self.lost_key = self.lost_key or f"key-{self.keys}", ""
        batch = self.do(self.manager.lease_batch(ask(self.version, GROUPS, key=key)))
        if batch is None:
            return
        self.check(batch)
        self.lost_key, given = (key, None) if lost else ("", batch)
        if self.answer_due is not None and self.clock.now < self.answer_until:
            assert batch.id == self.answer_due, "the lost answer is not given again"
        self.answer_until = self.clock.now + 60.0
        self.batch, self.answer_due = given, batch.id if lost else None

    def check(self, batch: Batch) -> None:
        ids = [each.id for group in batch.groups for each in group.trajectories]
        assert len(batch.groups) == GROUPS
        assert all(len(group.trajectories) == SIZE for group in batch.groups)
        assert not set(ids) & set(self.seen), "trained already by these weights"
        assert set(ids) <= self.posted
        for group in batch.groups:
            for each in group.trajectories:
                oldest = min(span.version for part in each.segments for span in part.versions)
                assert self.version - oldest <= STALENESS

    @precondition(lambda self: self.batch is not None)
    @rule(save=st.booleans(), tell=st.booleans())
    def train(self, save: bool, tell: bool) -> None:
        assert self.batch is not None
        batch, self.batch = self.batch, None
        try:
            for name in [*(trained.id for trained in self.unacknowledged), batch.id]:
                self.do(self.manager.renew_batch(name))
        except ProblemError as error:
            expect_gone(error)
            self.restore()
            return
        self.seen += [each.id for group in batch.groups for each in group.trajectories]
        self.step, self.version = self.step + 1, self.version + 1
        trained = TrainedBatch(id=batch.id, step=self.step, version=self.version)
        self.consumed.append(trained)
        self.unacknowledged.append(trained)
        if save or self.step == STEPS:
            self.disk = (self.step, list(self.seen), list(self.consumed))
            if not tell:
                self.restore()
                return
            for each in self.unacknowledged:
                self.do(self.manager.acknowledge(each.id, BatchAck(step=each.step, version=each.version)))
            self.unacknowledged = []
        self.do(self.manager.progress(ProgressReport(step=self.step, version=self.version)))

    @rule()
    def restore(self) -> None:
        """The trainer was killed, and begins again from its checkpoint."""
        step, seen, consumed = self.disk
        self.step, self.seen, self.consumed = step, list(seen), list(consumed)
        self.batch, self.unacknowledged, self.lost_key, self.answer_due = None, [], "", None
        self.version += 1
        request = ReconcileRequest(trainer="trainer", step=self.step, version=self.version, consumed=self.consumed)
        self.do(self.manager.reconcile(request))
        self.do(self.manager.progress(ProgressReport(step=self.step, version=self.version)))
        status = self.do(self.manager.status())
        assert status.step == self.step
        assert status.trained == len(self.seen), "the checkpoint's batches are consumed, and no others"

    # --- everybody

    @rule(seconds=st.sampled_from((1.0, 31.0, 61.0)))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        """The data manager ends, or is killed: nothing is closed then."""
        if clean:
            self.manager.close()
            self.opened.remove(self.manager)
        self.open()

    @invariant()
    def all_accounted_for(self) -> None:
        proof = self.do(self.manager.report()).proof
        assert proof.holds
        assert proof.trained <= len(self.disk[1])
        query = "SELECT id, step FROM batches WHERE state = 'consumed'"
        booked = {row["id"]: row["step"] for row in self.manager.store.connection.execute(query)}
        assert booked.items() <= {batch.id: batch.step for batch in self.disk[2]}.items()

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            for manager in self.opened:
                manager.close()
            self.loop.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def settle(self) -> None:
        """With nobody failing any more, the job comes to its end, and what was trained is what the store says."""
        for turn in range(SETTLING_ROUNDS):
            if self.do(self.manager.status()).complete:
                break
            self.clock.now += 10.0
            for index, each in enumerate(self.do(self.manager.claim(claim(8))).assignments):
                if each.kind is EpisodeKind.EVALUATE:
                    assert each.min_version is not None
                    # An engine that has not loaded the newest weights yet.
                    self.give(each, 0.0, max(0, self.version - index % 2))
                    continue
                self.give(each, float((index + turn) % 2), self.version)
            if self.step == STEPS and self.batch is None:
                self.do(self.manager.progress(ProgressReport(step=self.step, version=self.version)))
            elif self.batch is None:
                self.lease(lost=False)
            if self.batch is not None:
                self.train(save=self.saves, tell=True)
        status, report = self.do(self.manager.status()), self.do(self.manager.report())
        assert status.complete
        assert status.step == STEPS
        assert status.trained == len(self.seen) == len(set(self.seen))
        assert report.proof.holds
        assert max(report.staleness, default=0) <= STALENESS
        assert {point.purpose for point in report.evaluations} == {"initial", "final"}
        for point in report.evaluations:
            assert point.oldest_version >= point.version
        assert (self.folder / "report" / "report.json").is_file()


@pytest.mark.parametrize("runs", [15, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_no_trajectory_is_lost_or_trained_twice(runs: int) -> None:
    run_state_machine_as_test(
        World,
        settings=settings(
            max_examples=runs, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
