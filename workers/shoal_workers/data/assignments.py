"""Assignments: handed out under a lease, answered by a trajectory or a fault, handed out again when the lease runs out."""

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
    Prefix,
    TrajectoryRecord,
)
from shoal_workers.data import meta
from shoal_workers.data.groups import Groups
from shoal_workers.data.states import AssignmentState, GroupState, check_assignment
from shoal_workers.service import ProblemError


@dataclass
class Assignments:
    """Operations on assignments, inside the caller's transaction. `now` in seconds since the epoch."""

    connection: sqlite3.Connection
    config: DataConfig
    groups: Groups

    def expire(self, now: float) -> int:
        """Take back what its agent no longer renews; returns how many."""
        changed = self.connection.execute(
            "UPDATE assignments SET state = 'pending', agent = '' WHERE state = 'assigned' AND expires_at <= ?", (now,)
        )
        return changed.rowcount

    def claim(self, agent: str, count: int, version: int, now: float, *, training: bool) -> list[Assignment]:
        """Up to `count` assignments, evaluations first; groups are opened as long as the staleness bound leaves room."""
        self.expire(now)
        claimed = list(self._take(agent, count, version, now))
        while training and len(claimed) < count and self.groups.open_next(version):
            claimed += self._take(agent, count - len(claimed), version, now)
        return claimed

    def renew(self, assignment: str, now: float) -> float:
        """Hold it longer; returns until when. Raises a problem when it is no longer the agent's."""
        row = self._row(assignment)
        if row["state"] != AssignmentState.ASSIGNED:
            raise ProblemError("assignment-lost", f"assignment {assignment} is {row['state']}", status=410)
        until = now + self.config.assignment_seconds
        self.connection.execute("UPDATE assignments SET expires_at = ? WHERE id = ?", (until, assignment))
        return until

    def hand_back(self, assignment: str, prefix: Prefix) -> None:
        """An agent that ends gives it back with what it had reached."""
        row = self._row(assignment)
        if row["state"] == AssignmentState.ASSIGNED:
            self._move(row, AssignmentState.PENDING)
            stored = prefix.model_dump_json().encode() if prefix.segments else None
            self.connection.execute("UPDATE assignments SET resume = ? WHERE id = ?", (stored, assignment))

    def fail(self, assignment: str, report: FaultReport, now: float) -> None:
        """A fault: kept for the record, and the episode is run again. An answer that comes twice counts once."""
        row = self._row(assignment)
        if row["state"] != AssignmentState.ASSIGNED:
            return
        counted = report.outcome is not EpisodeOutcome.CANCELLED and row["claimed_at"] > meta.get_float(
            self.connection, "fault_counted_at"
        )
        self.connection.execute(
            "INSERT INTO faults (assignment_id, outcome, detail, at, counted) VALUES (?, ?, ?, ?, ?)",
            (assignment, report.outcome.value, report.detail, now, int(counted)),
        )
        if counted:
            # Episodes that were under way when the last fault was counted tell of the same cause: one dead member
            # takes all its episodes along, and that is one fault. Only a later try that fails again is the next in a row.
            meta.set_float(self.connection, "fault_counted_at", now)
            meta.set_int(self.connection, "consecutive_faults", meta.get_int(self.connection, "consecutive_faults") + 1)
            meta.put(self.connection, "last_fault", f"{report.outcome}: {report.detail}")
        self._move(row, AssignmentState.PENDING)

    def record(self, record: TrajectoryRecord, now: float) -> Accepted:
        """A trajectory: stored once, whoever posts it; counted into its group if that still waits for it."""
        row = self._row(record.assignment_id)
        if row["state"] == AssignmentState.RECORDED:
            return Accepted(id=record.assignment_id, duplicate=True, state=row["state"])
        if row["state"] == AssignmentState.CANCELLED:
            return Accepted(id=record.assignment_id, state=row["state"])
        if row["state"] == AssignmentState.PENDING:
            # Its lease ran out, nobody has it yet, and here is the answer after all.
            self._move(row, AssignmentState.ASSIGNED)
            row = self._row(record.assignment_id)
        oldest, newest = versions_of(record)
        self._move(row, AssignmentState.RECORDED)
        self.connection.execute(
            "INSERT INTO trajectories (id, group_id, episode_id, reward, outcome, turns, oldest_version, newest_version,"
            " recorded_at, record) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
                record.model_dump_json().encode(),
            ),
        )
        meta.set_int(self.connection, "consecutive_faults", 0)
        group = self.connection.execute("SELECT * FROM groups WHERE id = ?", (row["group_id"],)).fetchone()
        state = self.groups.recorded(group, oldest) if group["state"] == GroupState.OPEN else group["state"]
        return Accepted(id=record.assignment_id, state=state)

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
                "UPDATE assignments SET agent = ?, claimed_at = ?, expires_at = ?, attempts = attempts + 1 WHERE id = ?",
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
            temperature=evaluation.temperature if evaluates and evaluation else self.config.temperature,
            lease_expires_at=until,
            lease_seconds=self.config.assignment_seconds,
            resume=Prefix.model_validate_json(row["resume"]) if row["resume"] else None,
        )

    def _row(self, assignment: str) -> sqlite3.Row:
        row = self.connection.execute("SELECT * FROM assignments WHERE id = ?", (assignment,)).fetchone()
        if row is None:
            raise ProblemError("unknown-assignment", f"there is no assignment {assignment}", status=404)
        found: sqlite3.Row = row
        return found

    def _move(self, row: sqlite3.Row, after: AssignmentState) -> None:
        check_assignment(AssignmentState(row["state"]), after)
        self.connection.execute("UPDATE assignments SET state = ? WHERE id = ?", (after.value, row["id"]))


def versions_of(record: TrajectoryRecord) -> tuple[int, int]:
    """The oldest and the newest weight version of the sampled tokens. Raises a problem for a record without any."""
    versions = [span.version for segment in record.segments for span in segment.versions]
    if not versions:
        raise ProblemError("invalid-trajectory", "segments: no token was sampled by any weight version", status=422)
    return min(versions), max(versions)
