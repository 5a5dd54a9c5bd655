"""Batches: complete groups that a trainer holds under a lease until its checkpoint holds them."""

import sqlite3
from dataclasses import dataclass
from uuid import uuid4

from shoal.api.services.roles.data import DataConfig
from shoal.api.services.trajectories import (
    Batch,
    Reconciled,
    ReconcileRequest,
    TrainGroup,
    TrainTrajectory,
    TrajectoryRecord,
)
from shoal_workers.data.groups import Groups
from shoal_workers.data.staleness import staleness
from shoal_workers.data.states import GroupState
from shoal_workers.service import ProblemError


@dataclass
class Batches:
    """Operations on batches, inside the caller's transaction. `now` in seconds since the epoch."""

    connection: sqlite3.Connection
    config: DataConfig
    groups: Groups

    def lease(self, trainer: str, version: int, count: int, now: float) -> Batch | None:
        """The oldest `count` complete groups, fresh enough for `version`; None while there are fewer."""
        self.expire(now)
        self.groups.drop_stale(version)
        query = "SELECT id FROM groups WHERE kind = 'train' AND state = 'complete' ORDER BY oldest_version, id LIMIT ?"
        chosen = [row["id"] for row in self.connection.execute(query, (count,))]
        if len(chosen) < count:
            return None
        batch, until = uuid4().hex, now + self.config.batch_seconds
        self.connection.execute(
            "INSERT INTO batches (id, trainer, state, version, expires_at) VALUES (?, ?, 'leased', ?, ?)",
            (batch, trainer, version, until),
        )
        for group in chosen:
            self.groups.move(group, GroupState.COMPLETE, GroupState.LEASED)
            self.connection.execute("INSERT INTO batch_groups (batch_id, group_id) VALUES (?, ?)", (batch, group))
        groups = [self._group(group) for group in chosen]
        return Batch(id=batch, groups=groups, expires_at=until, lease_seconds=self.config.batch_seconds)

    def renew(self, batch: str, now: float) -> float:
        """Hold it longer; returns until when. Raises a problem when it went back already."""
        self._leased(batch)
        until = now + self.config.batch_seconds
        self.connection.execute("UPDATE batches SET expires_at = ? WHERE id = ?", (until, batch))
        return until

    def acknowledge(self, batch: str, step: int) -> bool:
        """The checkpoint of `step` holds the batch: consumed, for ever. Returns whether it had been so before."""
        row = self._row(batch)
        if row["state"] == "consumed":
            return True
        if row["state"] != "leased":
            raise ProblemError("batch-lost", f"batch {batch} went back before it was acknowledged", status=410)
        self._consume(row, step)
        return False

    def release(self, batch: str) -> None:
        """The trainer gives it back untrained; a batch that it no longer holds is left alone."""
        row = self._row(batch)
        if row["state"] == "leased":
            self._give_back(row)

    def expire(self, now: float) -> None:
        """Take back what its trainer no longer renews."""
        query = "SELECT * FROM batches WHERE state = 'leased' AND expires_at <= ?"
        for row in self.connection.execute(query, (now,)).fetchall():
            self._give_back(row)

    def reconcile(self, request: ReconcileRequest) -> Reconciled:
        """Agree with a trainer that starts: what its checkpoint holds is consumed, all else that is leased goes back.

        Raises a problem when the checkpoint names a batch that went back and may have been handed out again; that cannot
        happen while the trainer acknowledges only what it still holds.
        """
        consumed, released = [], []
        named = set(request.consumed)
        for row in self.connection.execute("SELECT * FROM batches WHERE state = 'leased'").fetchall():
            if row["id"] in named:
                self._consume(row, request.step)
                consumed.append(row["id"])
            else:
                self._give_back(row)
                released.append(row["id"])
        return Reconciled(consumed=consumed, released=released)

    def _consume(self, row: sqlite3.Row, step: int) -> None:
        for group in self._groups_of(row["id"]):
            self.groups.move(group, GroupState.LEASED, GroupState.CONSUMED)
            for each in self.connection.execute(
                "SELECT id, oldest_version FROM trajectories WHERE group_id = ?", (group,)
            ).fetchall():
                behind = staleness(row["version"], each["oldest_version"])
                self.connection.execute(
                    "INSERT INTO trainings (trajectory_id, batch_id, step, staleness) VALUES (?, ?, ?, ?)",
                    (each["id"], row["id"], step, behind),
                )
        self.connection.execute("UPDATE batches SET state = 'consumed', step = ? WHERE id = ?", (step, row["id"]))

    def _give_back(self, row: sqlite3.Row) -> None:
        for group in self._groups_of(row["id"]):
            self.groups.move(group, GroupState.LEASED, GroupState.COMPLETE)
        self.connection.execute("UPDATE batches SET state = 'released' WHERE id = ?", (row["id"],))

    def _groups_of(self, batch: str) -> list[int]:
        query = "SELECT group_id FROM batch_groups WHERE batch_id = ?"
        return [row["group_id"] for row in self.connection.execute(query, (batch,))]

    def _group(self, group: int) -> TrainGroup:
        task = self.connection.execute("SELECT task_id FROM groups WHERE id = ?", (group,)).fetchone()["task_id"]
        rows = self.connection.execute("SELECT * FROM trajectories WHERE group_id = ? ORDER BY id", (group,)).fetchall()
        return TrainGroup(id=str(group), task_id=task, trajectories=[_trajectory(row) for row in rows])

    def _leased(self, batch: str) -> sqlite3.Row:
        row = self._row(batch)
        if row["state"] != "leased":
            raise ProblemError("batch-lost", f"batch {batch} is {row['state']}", status=410)
        return row

    def _row(self, batch: str) -> sqlite3.Row:
        row = self.connection.execute("SELECT * FROM batches WHERE id = ?", (batch,)).fetchone()
        if row is None:
            raise ProblemError("unknown-batch", f"there is no batch {batch}", status=404)
        found: sqlite3.Row = row
        return found


def _trajectory(row: sqlite3.Row) -> TrainTrajectory:
    record = TrajectoryRecord.model_validate_json(row["record"])
    return TrainTrajectory(
        id=row["id"], segments=record.segments, reward=record.reward, outcome=record.outcome, turns=record.turns
    )
