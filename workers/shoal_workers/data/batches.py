"""Batches: complete groups that a trainer holds under a lease until its checkpoint holds them."""

import sqlite3
from dataclasses import dataclass
from uuid import uuid4

from shoal.api.services.roles.data import DataConfig
from shoal.api.services.trajectories import BatchRequest, EpisodeOutcome, Reconciled, ReconcileRequest
from shoal_workers.data import meta
from shoal_workers.data.groups import Groups
from shoal_workers.data.handover import HandedGroup, HandedTrajectory, Handover
from shoal_workers.data.payloads import PayloadError, Payloads
from shoal_workers.data.staleness import group_capacity, staleness
from shoal_workers.data.states import DropReason, GroupState
from shoal_workers.data.store import scalar
from shoal_workers.service import ProblemError


@dataclass
class Batches:
    """Operations on batches, inside the caller's transaction. `now` in seconds since the epoch."""

    connection: sqlite3.Connection
    config: DataConfig
    groups: Groups
    payloads: Payloads

    def begin(self, now: float) -> None:
        """After a start: what the trainer holds gets a whole term again, however the clock moved meanwhile."""
        until = now + self.config.batch_seconds
        self.connection.execute("UPDATE batches SET expires_at = ? WHERE state = 'leased'", (until,))

    def lease(self, request: BatchRequest, now: float) -> Handover | None:
        """The oldest complete groups, fresh enough for the trainer's version; None while there are fewer than it asks
        for.

        Raises a problem for more groups than may ever be complete at once: they would be waited for in vain.
        """
        capacity = group_capacity(self.config.max_staleness, self.config.batch_groups)
        if request.groups > capacity:
            detail = f"groups: {request.groups} asked for, but at most {capacity} are kept ((maxStaleness + 1) * batch)"
            raise ProblemError("invalid-request", detail, status=422)
        self._renew_all(request.trainer, now)
        self.expire(now)
        given = self._given_for(request.key, now)
        if given is not None:
            return given
        self.groups.drop_stale(request.version)
        if request.vocabulary is not None:
            meta.set_int(self.connection, "vocabulary", request.vocabulary)
        groups = self._readable(request.groups)
        if len(groups) < request.groups:
            return None
        chosen = [int(group.id) for group in groups]
        batch, until = uuid4().hex, now + self.config.batch_seconds
        self.connection.execute(
            "INSERT INTO batches (id, trainer, state, version, expires_at, key) VALUES (?, ?, 'leased', ?, ?, ?)",
            (batch, request.trainer, request.version, until, request.key or None),
        )
        for group in chosen:
            self.groups.move(group, GroupState.COMPLETE, GroupState.LEASED)
            self.connection.execute("INSERT INTO batch_groups (batch_id, group_id) VALUES (?, ?)", (batch, group))
        return Handover(batch, until, self.config.batch_seconds, groups)

    def renew(self, batch: str, now: float) -> float:
        """Hold it longer; returns until when. Raises a problem when it went back already."""
        self._leased(batch)
        until = now + self.config.batch_seconds
        self.connection.execute("UPDATE batches SET expires_at = ?, renewed = 1 WHERE id = ?", (until, batch))
        return until

    def acknowledge(self, batch: str, step: int) -> bool:
        """Step `step` trained the batch and a checkpoint holds it: consumed, for ever. Returns whether it had been so
        before.
        """
        row = self._row(batch)
        if row["state"] == "consumed":
            return True
        if not self._reclaim(row):
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

        A batch that the checkpoint holds is consumed even if its lease ran out meanwhile, as long as nobody else got
        its groups; nobody can have while there is one trainer, since only a trainer's call takes groups.
        """
        consumed, released = [], []
        steps = {batch.id: batch.step for batch in request.consumed}
        for row in self.connection.execute("SELECT * FROM batches WHERE state <> 'consumed'").fetchall():
            step = steps.get(row["id"])
            if step is not None and self._reclaim(row):
                self._consume(row, step)
                consumed.append(row["id"])
            elif row["state"] == "leased":
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

    def _reclaim(self, row: sqlite3.Row) -> bool:
        """Whether the batch is its trainer's: held, or given back and not touched since, in which case it is held
        again.
        """
        if row["state"] == "leased":
            return True
        query = (
            "SELECT COUNT(*) FROM batch_groups x JOIN groups g ON g.id = x.group_id"
            " WHERE x.batch_id = ? AND g.state <> 'complete'"
        )
        if row["state"] != "released" or scalar(self.connection, query, row["id"]):
            return False
        for group in self._groups_of(row["id"]):
            self.groups.move(group, GroupState.COMPLETE, GroupState.LEASED)
        return True

    def _give_back(self, row: sqlite3.Row) -> None:
        for group in self._groups_of(row["id"]):
            self.groups.move(group, GroupState.LEASED, GroupState.COMPLETE)
        self.connection.execute("UPDATE batches SET state = 'released', key = NULL WHERE id = ?", (row["id"],))

    def _groups_of(self, batch: str) -> list[int]:
        query = "SELECT group_id FROM batch_groups WHERE batch_id = ?"
        return [row["group_id"] for row in self.connection.execute(query, (batch,))]

    def _renew_all(self, trainer: str, now: float) -> None:
        """Hold what the trainer is known to hold: it asks for more, so it lives.

        A trainer that saves every few steps has trained batches that no checkpoint names yet. If they ran out while it
        waits for the next one, it would get them again and train on them twice. A batch that it never renewed may have
        been given to a call that it gave up.
        """
        until = now + self.config.batch_seconds
        query = "UPDATE batches SET expires_at = ? WHERE state = 'leased' AND trainer = ? AND renewed"
        self.connection.execute(query, (until, trainer))

    def _given_for(self, key: str, now: float) -> Handover | None:
        """The batch that was given for this key and is still held, if there is one."""
        query = "SELECT id FROM batches WHERE key = ? AND state = 'leased'"
        batch = scalar(self.connection, query, key) if key else None
        if batch is None:
            return None
        until = now + self.config.batch_seconds
        self.connection.execute("UPDATE batches SET expires_at = ? WHERE id = ?", (until, batch))
        groups = [self._group(group) for group in self._groups_of(batch)]
        return Handover(batch, until, self.config.batch_seconds, groups)

    def _readable(self, count: int) -> list[HandedGroup]:
        """The oldest complete groups, up to `count`; one that cannot be read is dropped with its reason, for else it
        would be in every later batch.
        """
        query = "SELECT id FROM groups WHERE kind = 'train' AND state = 'complete' ORDER BY oldest_version, id"
        found: list[HandedGroup] = []
        for row in self.connection.execute(query).fetchall():
            if len(found) == count:
                break
            try:
                found.append(self._group(row["id"]))
            except PayloadError as error:
                self.groups.drop(row["id"], GroupState.COMPLETE, DropReason.DAMAGED)
                meta.put(self.connection, "damaged", f"group {row['id']}: {error}")
        return found

    def _group(self, group: int) -> HandedGroup:
        """Raises PayloadError naming the trajectory that cannot be read."""
        task = self.connection.execute("SELECT task_id FROM groups WHERE id = ?", (group,)).fetchone()["task_id"]
        query = (
            "SELECT t.id, t.outcome, t.record, p.top_token FROM trajectories t"
            " LEFT JOIN payloads p ON p.trajectory_id = t.id WHERE t.group_id = ? ORDER BY t.id"
        )
        rows = self.connection.execute(query, (group,)).fetchall()
        return HandedGroup(str(group), task, [self._trajectory(row) for row in rows])

    def _trajectory(self, row: sqlite3.Row) -> HandedTrajectory:
        vocabulary = meta.get_int(self.connection, "vocabulary")
        if vocabulary and row["top_token"] is not None and row["top_token"] >= vocabulary:
            raise PayloadError(f"trajectory {row['id']}: token {row['top_token']} is outside the trainer's vocabulary")
        try:
            blob = self.payloads.read(row["id"])
        except PayloadError as error:
            raise PayloadError(f"trajectory {row['id']}: {error}") from None
        outcome = EpisodeOutcome(row["outcome"])
        return HandedTrajectory(row["id"], outcome, row["record"] if blob is None else blob, is_record=blob is None)

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
