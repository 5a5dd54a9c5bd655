"""Assignments: handed out under a lease, answered by a trajectory or a fault, and otherwise handed out again."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from shoal.api.services.roles.data import DataConfig
from shoal.api.services.trajectories import (
    Accepted,
    Assignment,
    EpisodeKind,
    EpisodeOutcome,
    FaultReport,
    HandBack,
    Prefix,
    TrajectoryRecord,
)
from shoal_workers.data import meta
from shoal_workers.data.difficulty import Difficulty
from shoal_workers.data.faults import Cause, Causes
from shoal_workers.data.groups import Groups
from shoal_workers.data.intake import check
from shoal_workers.data.payloads import Payloads
from shoal_workers.data.staleness import is_stale
from shoal_workers.data.states import AssignmentState, DropReason, GroupState, check_assignment
from shoal_workers.data.store import scalar
from shoal_workers.service import ProblemError
from shoal_workers.tokens.arrays import NOT_SAMPLED, TokenArrays

_UNCOUNTED = (EpisodeOutcome.CANCELLED, EpisodeOutcome.UNFIT_TASK)
"""Faults that tell of no service that fails."""


@dataclass
class Assignments:
    """Operations on assignments, inside the caller's transaction. `now` in seconds since the epoch."""

    connection: sqlite3.Connection
    config: DataConfig
    groups: Groups
    causes: Causes
    difficulty: Difficulty
    payloads: Payloads

    def begin(self, now: float) -> None:
        """After a start: what agents hold gets a whole term again, however the clock moved while nobody looked."""
        self.connection.execute(
            "UPDATE assignments SET claimed_at = ?, expires_at = ? WHERE state = 'assigned'",
            (now, now + self.config.assignment_seconds),
        )
        self.connection.execute("UPDATE causes SET counted_at = ? WHERE counted_at > ?", (now, now))

    def expire(self, now: float) -> int:
        """Take back what its agent no longer renews; returns how many."""
        changed = self.connection.execute(
            "UPDATE assignments SET state = 'pending', agent = '' WHERE state = 'assigned' AND expires_at <= ?", (now,)
        )
        return changed.rowcount

    def claim(self, agent: str, count: int, version: int, now: float, *, training: bool) -> list[Assignment]:
        """Up to `count` assignments, evaluations first; groups are opened while the staleness bound leaves room."""
        self.expire(now)
        claimed = list(self._take(agent, count, version, now))
        while training and len(claimed) < count and self.groups.open_next(version):
            claimed += self._take(agent, count - len(claimed), version, now)
        return claimed

    def renew(self, assignment: str, attempt: int | None, now: float) -> float:
        """Hold it longer; returns until when. Raises a problem when it is no longer the agent's."""
        row = self._row(assignment)
        if not _held(row, attempt):
            raise ProblemError("assignment-lost", f"assignment {assignment} is {row['state']} or another's", status=410)
        until = now + self.config.assignment_seconds
        self.connection.execute("UPDATE assignments SET expires_at = ? WHERE id = ?", (until, assignment))
        return until

    def hand_back(self, assignment: str, message: HandBack) -> None:
        """An agent that ends gives it back with what it had reached."""
        row = self._row(assignment)
        if _held(row, message.attempt):
            self._move(row, AssignmentState.PENDING)
            self._keep_prefix(row, message.prefix)

    def fail(self, assignment: str, report: FaultReport, now: float) -> None:
        """A fault: kept for the record, and the episode is run again. An answer that comes twice counts once.

        A training episode that fails again and again while others succeed is not the system's fault but its task's:
        its group is dropped, or it would hold its place, and in the end everybody's, for ever.
        """
        row = self._row(assignment)
        if not _held(row, report.attempt):
            return
        group = self.connection.execute("SELECT * FROM groups WHERE id = ?", (row["group_id"],)).fetchone()
        cause = Cause.of(report.outcome, group["environment"])
        counted = report.outcome not in _UNCOUNTED and self.causes.counts(cause, row["claimed_at"])
        self.connection.execute(
            "INSERT INTO faults (assignment_id, outcome, detail, at, counted) VALUES (?, ?, ?, ?, ?)",
            (assignment, report.outcome.value, report.detail, now, int(counted)),
        )
        if counted:
            self._count_fault(cause, report.detail, now)
        self._move(row, AssignmentState.PENDING)
        self._keep_prefix(row, Prefix())
        if report.outcome is EpisodeOutcome.UNFIT_TASK:
            self._set_aside(row, group, report.detail)
        elif self._faults_of(assignment) >= self.config.max_consecutive_faults:
            self._give_up(row, report)

    def record(self, record: TrajectoryRecord, arrays: TokenArrays, blob: bytes, now: float) -> Accepted:
        """A trajectory: stored once, whoever posts it; counted into its group if that still waits for it.

        `arrays` are its tokens and `blob` their bytes. Raises a problem that names the field for a record that could
        not be trained on.
        """
        check(arrays, meta.get_int(self.connection, "version"), meta.get_int(self.connection, "vocabulary") or None)
        row = self._row(record.assignment_id)
        if row["state"] == AssignmentState.RECORDED:
            return Accepted(id=record.assignment_id, duplicate=True, state=row["state"])
        if row["state"] == AssignmentState.CANCELLED:
            return Accepted(id=record.assignment_id, state=row["state"])
        if row["state"] == AssignmentState.PENDING:
            # Its lease ran out, nobody has it yet, and here is the answer after all.
            self._move(row, AssignmentState.ASSIGNED)
            row = self._row(record.assignment_id)
        group = self.connection.execute("SELECT * FROM groups WHERE id = ?", (row["group_id"],)).fetchone()
        oldest, newest = versions_of(arrays)
        if group["kind"] == EpisodeKind.EVALUATE and oldest < group["opened_version"]:
            # Measured with weights that were not asked for: engines were still loading, or it was begun before.
            self._move(row, AssignmentState.PENDING)
            self._keep_prefix(row, Prefix())
            return Accepted(id=record.assignment_id, state=AssignmentState.PENDING)
        self._move(row, AssignmentState.RECORDED)
        self.connection.execute(
            "INSERT INTO trajectories (id, group_id, episode_id, reward, outcome, turns, oldest_version,"
            " newest_version, recorded_at, record) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.assignment_id,
                row["group_id"],
                record.episode_id,
                record.reward,
                record.outcome.value,
                record.turns,
                oldest,
                newest,
                now,
                b"",
            ),
        )
        self.payloads.write(record.assignment_id, blob, newest, int(arrays.token_ids.max()))
        self.causes.worked(group["environment"])
        if group["kind"] == EpisodeKind.TRAIN:
            success = record.reward >= self.config.tasks.success_threshold
            self.difficulty.add(group["task_id"], success, record.turns, newest)
        state = self.groups.recorded(group, oldest) if group["state"] == GroupState.OPEN else group["state"]
        return Accepted(id=record.assignment_id, state=state)

    def _count_fault(self, cause: Cause, detail: str, now: float) -> None:
        """One more in a row; too many halt the job for good, as episodes that still run must not hide it."""
        count = self.causes.count(cause, detail, now)
        if count >= self.config.max_consecutive_faults:
            halted = f"{count} faults in a row of {cause.key}; the last one: {cause.outcome}: {detail}"
            meta.put(self.connection, "halted", halted)

    def _set_aside(self, row: sqlite3.Row, group: sqlite3.Row, detail: str) -> None:
        """Nobody can play this task, so it is never drawn again; an evaluation goes on without it."""
        if group["kind"] == EpisodeKind.TRAIN:
            self.difficulty.set_aside(group["task_id"], detail)
            self.groups.drop(group["id"], GroupState(group["state"]), DropReason.UNFIT)
            return
        self.difficulty.set_aside(f"evaluation {row['task']}", detail)
        self.connection.execute("UPDATE assignments SET state = 'cancelled' WHERE id = ?", (row["id"],))
        if self.groups.shrink(group):
            meta.put(self.connection, "halted", f"no evaluation episode can be played; the last one: {detail}")

    def group_of(self, assignment: str) -> int:
        """The group that an assignment belongs to."""
        return int(self._row(assignment)["group_id"])

    def _take(self, agent: str, count: int, version: int, now: float) -> Iterator[Assignment]:
        query = (
            "SELECT a.*, g.kind, g.task_id, g.environment, e.version AS wanted, e.purpose FROM assignments a"
            " JOIN groups g ON g.id = a.group_id LEFT JOIN evaluations e ON e.group_id = g.id"
            " WHERE a.state = 'pending' ORDER BY g.kind, a.group_id, a.position LIMIT ?"
        )
        until = now + self.config.assignment_seconds
        for row in self.connection.execute(query, (count,)).fetchall():
            self._move(row, AssignmentState.ASSIGNED)
            self.connection.execute(
                "UPDATE assignments SET agent = ?, claimed_at = ?, expires_at = ?, attempts = attempts + 1"
                " WHERE id = ?",
                (agent, now, until, row["id"]),
            )
            yield self._message(row, version, until)

    def _message(self, row: sqlite3.Row, version: int, until: float) -> Assignment:
        evaluates = row["kind"] == EpisodeKind.EVALUATE
        evaluation = self.config.evaluation
        return Assignment(
            id=row["id"],
            task_id=row["task_id"],
            group_id=str(row["group_id"]),
            environment=row["environment"],
            task=json.loads(row["task"]),
            kind=EpisodeKind(row["kind"]),
            policy_version=version,
            min_version=row["wanted"] if evaluates else None,
            max_turns=self.config.max_turns,
            success_turns=[] if evaluates else list(self.difficulty.of(row["task_id"]).lengths),
            temperature=evaluation.temperature if evaluates and evaluation else self.config.temperature,
            lease_expires_at=until,
            lease_seconds=self.config.assignment_seconds,
            attempt=row["attempts"] + 1,
            resume=self._prefix_of(row, version),
        )

    def _prefix_of(self, row: sqlite3.Row, version: int) -> Prefix | None:
        """What an interrupted episode had reached, unless its tokens are too old by now to be trained on."""
        if not row["resume"]:
            return None
        prefix = Prefix.model_validate_json(row["resume"])
        oldest = min((span.version for segment in prefix.segments for span in segment.versions), default=version)
        return None if is_stale(version, oldest, self.config.max_staleness) else prefix

    def _keep_prefix(self, row: sqlite3.Row, prefix: Prefix) -> None:
        stored = prefix.model_dump_json().encode() if prefix.segments else None
        self.connection.execute("UPDATE assignments SET resume = ? WHERE id = ?", (stored, row["id"]))

    def _faults_of(self, assignment: str) -> int:
        query = "SELECT COUNT(*) FROM faults WHERE assignment_id = ? AND outcome <> 'cancelled'"
        return int(scalar(self.connection, query, assignment))

    def _give_up(self, row: sqlite3.Row, report: FaultReport) -> None:
        """Its task cannot be done: drop the group; an evaluation cannot do without it, so the job ends."""
        group = self.connection.execute("SELECT * FROM groups WHERE id = ?", (row["group_id"],)).fetchone()
        if group["kind"] == EpisodeKind.TRAIN:
            self.groups.drop(group["id"], GroupState(group["state"]), DropReason.FAULTS)
        else:
            cause = f"evaluation episode {row['task']} failed {self._faults_of(row['id'])} times"
            meta.put(self.connection, "halted", f"{cause}; the last time: {report.outcome}: {report.detail}")

    def _row(self, assignment: str) -> sqlite3.Row:
        row = self.connection.execute("SELECT * FROM assignments WHERE id = ?", (assignment,)).fetchone()
        if row is None:
            raise ProblemError("unknown-assignment", f"there is no assignment {assignment}", status=404)
        found: sqlite3.Row = row
        return found

    def _move(self, row: sqlite3.Row, after: AssignmentState) -> None:
        check_assignment(AssignmentState(row["state"]), after)
        self.connection.execute("UPDATE assignments SET state = ? WHERE id = ?", (after.value, row["id"]))


def _held(row: sqlite3.Row, attempt: int | None) -> bool:
    """Whether the assignment is held by the agent that got it as this attempt (None: by any)."""
    return row["state"] == AssignmentState.ASSIGNED and attempt in (None, row["attempts"])


def versions_of(arrays: TokenArrays) -> tuple[int, int]:
    """The oldest and the newest weight version of the sampled tokens, of which there is at least one."""
    versions = arrays.token_versions[arrays.token_versions != NOT_SAMPLED]
    return int(versions.min()), int(versions.max())
