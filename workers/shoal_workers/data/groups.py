"""Groups: opened for a task, complete at the size their allocator chose, dropped for a reason."""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

from shoal.api.services.roles.data import DataConfig
from shoal.api.services.trajectories import EpisodeKind
from shoal_workers.data.difficulty import Difficulty
from shoal_workers.data.flatness import Flatness, kind_of
from shoal_workers.data.meta import get_int, set_int
from shoal_workers.data.payloads import Payloads
from shoal_workers.data.rules.allocators import Allocation, RolloutAllocator
from shoal_workers.data.rules.samplers import Draw, TaskSampler
from shoal_workers.data.staleness import may_open
from shoal_workers.data.states import AssignmentState, DropReason, GroupState, check_group
from shoal_workers.data.store import scalar
from shoal_workers.data.tasks import Task, TaskPool, seeded

DRAWS = 1000
"""Tasks that are drawn in vain, because they are set aside, before the caller waits for another."""
_ENDS = (GroupState.CONSUMED, GroupState.DROPPED, GroupState.MEASURED)


@dataclass
class Groups:
    """Operations on groups, inside the caller's transaction."""

    connection: sqlite3.Connection
    config: DataConfig
    tasks: TaskPool
    sampler: TaskSampler
    allocator: RolloutAllocator
    difficulty: Difficulty
    flatness: Flatness
    payloads: Payloads
    clock: Callable[[], float]

    def outstanding(self, version: int) -> int:
        """Training groups that are open, complete or in training while the trainer is at `version`.

        A batch that was leased for earlier weights is trained and only waits for the next checkpoint. Were it counted,
        a trainer that saves every few steps would wait for groups that may not be opened before it saves.
        """
        waiting = "SELECT COUNT(*) FROM groups WHERE kind = 'train' AND state IN ('open', 'complete')"
        training = (
            "SELECT COUNT(*) FROM batches b JOIN batch_groups x ON x.batch_id = b.id"
            " WHERE b.state = 'leased' AND b.version >= ?"
        )
        return int(scalar(self.connection, waiting)) + int(scalar(self.connection, training, version))

    def has_room(self, version: int) -> bool:
        """Whether the staleness bound allows one more group."""
        return may_open(self.outstanding(version), self.config.max_staleness, self.config.batch_groups)

    def open_next(self, version: int) -> bool:
        """Open a group for the next task, if the staleness bound leaves room; whether it did."""
        if not self.has_room(version):
            return False
        drawn, task = self._next_task()
        if task is None:
            return False
        environment = self.config.environments[drawn % len(self.config.environments)]
        known = Allocation(self.difficulty.of(task.id), self.difficulty.of_open_groups(), self.config.group_size)
        size = self.allocator.size(known)
        self.open(EpisodeKind.TRAIN, task.id, environment, [task] * size, version)
        return True

    def _next_task(self) -> tuple[int, Task | None]:
        """The next task that can be played, and how many were drawn before it; None where none is left."""
        for _ in range(DRAWS):
            drawn = get_int(self.connection, "drawn")
            set_int(self.connection, "drawn", drawn + 1)
            draw = Draw(
                drawn, self.tasks.size, self.config.seed, lambda index: self.difficulty.of(self.tasks.at(index).id)
            )
            task = self.tasks.at(self.sampler.next(draw))
            if not self.difficulty.is_set_aside(task.id):
                return drawn, seeded(task)
        return 0, None

    def open(self, kind: EpisodeKind, task_id: str, environment: str, tasks: list[Task], version: int) -> int:
        """Open a group with one assignment per task; returns its id."""
        insert = (
            "INSERT INTO groups (task_id, environment, kind, size, state, opened_version) VALUES (?, ?, ?, ?, ?, ?)"
        )
        values = (task_id, environment, kind.value, len(tasks), GroupState.OPEN.value, version)
        group = int(self.connection.execute(insert, values).lastrowid or 0)
        self._add_assignments(group, [json.dumps(task.body) for task in tasks], 0)
        return group

    def recorded(self, group: sqlite3.Row, oldest_version: int) -> GroupState:
        """Count one more trajectory into an open group; returns the group's state after it."""
        oldest = oldest_version if group["oldest_version"] is None else min(oldest_version, group["oldest_version"])
        count = group["recorded"] + 1
        self.connection.execute(
            "UPDATE groups SET recorded = ?, oldest_version = ? WHERE id = ?", (count, oldest, group["id"])
        )
        if count < group["size"]:
            return GroupState.OPEN
        if group["kind"] == EpisodeKind.EVALUATE:
            self.move(group["id"], GroupState.OPEN, GroupState.MEASURED)
            return GroupState.MEASURED
        rewards, threshold = self._rewards(group["id"]), self.config.tasks.success_threshold
        more = self.allocator.more(self.config.group_size, count, sum(reward >= threshold for reward in rewards))
        if more > 0:
            self._grow(group["id"], count, more)
            return GroupState.OPEN
        kind = kind_of(rewards, threshold)
        self.flatness.add(kind)
        if self.config.zero_variance == "Drop" and kind != "m":
            self.move(group["id"], GroupState.OPEN, GroupState.DROPPED, DropReason.ZERO_VARIANCE)
            return GroupState.DROPPED
        self.move(group["id"], GroupState.OPEN, GroupState.COMPLETE)
        return GroupState.COMPLETE

    def move(self, group: int, before: GroupState, after: GroupState, reason: DropReason | None = None) -> None:
        """Move a group; raises IllegalStepError for a step that its life does not know."""
        check_group(before, after)
        changed = self.connection.execute(
            "UPDATE groups SET state = ?, reason = ? WHERE id = ? AND state = ?",
            (after.value, reason.value if reason else "", group, before.value),
        )
        if changed.rowcount != 1:
            raise AssertionError(f"group {group} is not {before}")
        if after in _ENDS:
            self.payloads.finished(group, self.clock())

    def shrink(self, group: sqlite3.Row) -> bool:
        """Do with one episode less in an open evaluation; whether it has none left."""
        if group["size"] == 1:
            return True
        self.connection.execute("UPDATE groups SET size = size - 1 WHERE id = ?", (group["id"],))
        if group["recorded"] == group["size"] - 1:
            self.move(group["id"], GroupState.OPEN, GroupState.MEASURED)
        return False

    def drop(self, group: int, before: GroupState, reason: DropReason) -> None:
        """Never train on the group, and cancel what was still to be run for it."""
        self.move(group, before, GroupState.DROPPED, reason)
        self.connection.execute(
            "UPDATE assignments SET state = 'cancelled' WHERE group_id = ? AND state IN ('pending', 'assigned')",
            (group,),
        )

    def drop_stale(self, version: int) -> int:
        """Drop groups with a token that is too old for a trainer at `version`; returns how many.

        Open ones too, as they can only get older. Their tasks are put in line again where there is room: long episodes
        are the ones that go stale, and a task must not be trained on less because its episodes are long.
        """
        oldest_allowed = version - self.config.max_staleness
        query = "SELECT * FROM groups WHERE kind = 'train' AND state IN ('open', 'complete') AND oldest_version < ?"
        stale = self.connection.execute(query, (oldest_allowed,)).fetchall()
        for row in stale:
            self.drop(row["id"], GroupState(row["state"]), DropReason.STALE)
        for row in stale:
            if self.has_room(version):
                self._open_again(row, version)
        return len(stale)

    def drop_unfinished(self) -> None:
        """Training is over: drop what nobody will train on."""
        query = "SELECT id, state FROM groups WHERE kind = 'train' AND state IN ('open', 'complete')"
        for row in self.connection.execute(query).fetchall():
            self.drop(row["id"], GroupState(row["state"]), DropReason.FINISHED)

    def _grow(self, group: int, size: int, more: int) -> None:
        """Add episodes of the same task to an open group."""
        self.connection.execute("UPDATE groups SET size = ? WHERE id = ?", (size + more, group))
        body = scalar(self.connection, "SELECT task FROM assignments WHERE group_id = ? LIMIT 1", group)
        self._add_assignments(group, [body] * more, size)

    def _add_assignments(self, group: int, bodies: list[str], first: int) -> None:
        rows = [
            (uuid4().hex, group, position, body, AssignmentState.PENDING.value)
            for position, body in enumerate(bodies, first)
        ]
        self.connection.executemany(
            "INSERT INTO assignments (id, group_id, position, task, state) VALUES (?, ?, ?, ?, ?)", rows
        )

    def _open_again(self, row: sqlite3.Row, version: int) -> None:
        body = scalar(self.connection, "SELECT task FROM assignments WHERE group_id = ? LIMIT 1", row["id"])
        task = Task(row["task_id"], json.loads(body))
        self.open(EpisodeKind.TRAIN, task.id, row["environment"], [task] * row["size"], version)

    def _rewards(self, group: int) -> list[float]:
        query = "SELECT reward FROM trajectories WHERE group_id = ?"
        return [row["reward"] for row in self.connection.execute(query, (group,))]
