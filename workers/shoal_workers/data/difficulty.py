"""What is known of each task: how often it succeeds, how long its successes are, and whether it can be played at all.

One store for all who decide by difficulty. A success is a reward of at least the task source's threshold, whatever the
scale of rewards.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

WINDOW = 64
"""Newest episodes of a task that its success rate is taken from; older ones tell of a policy that is gone."""
LENGTHS = 32
"""Newest successes whose turns are kept."""
DISCOUNT = 0.98
"""Weight of what is known when one more episode comes in: half of it is gone after 34 episodes."""


@dataclass(frozen=True)
class TaskRecord:
    """One task's history.

    `successes` and `failures` are discounted counts: with 1 added to each they are a Beta distribution. `recent` has a
    1 for each success among the newest episodes, oldest first. `lengths` are the turns of its newest successes.
    """

    id: str
    attempts: int = 0
    successes: float = 0.0
    failures: float = 0.0
    recent: str = ""
    lengths: tuple[int, ...] = ()
    last_version: int = -1

    @property
    def rate(self) -> float | None:
        """Share of the newest episodes that succeeded; None without any."""
        return self.recent.count("1") / len(self.recent) if self.recent else None

    @property
    def mean(self) -> float:
        """Mean of the Beta distribution: 0.5 for a task that nobody has tried."""
        return (self.successes + 1) / (self.successes + self.failures + 2)

    def after(self, success: bool, turns: int, version: int) -> TaskRecord:
        """With one more episode."""
        return TaskRecord(
            id=self.id,
            attempts=self.attempts + 1,
            successes=self.successes * DISCOUNT + success,
            failures=self.failures * DISCOUNT + (not success),
            recent=(self.recent + str(int(success)))[-WINDOW:],
            lengths=(*self.lengths, turns)[-LENGTHS:] if success else self.lengths,
            last_version=max(self.last_version, version),
        )


@dataclass(frozen=True)
class Difficulty:
    """The store, inside the caller's transaction."""

    connection: sqlite3.Connection

    def of(self, task: str) -> TaskRecord:
        """What is known of a task."""
        row = self.connection.execute("SELECT * FROM tasks WHERE id = ?", (task,)).fetchone()
        return TaskRecord(task) if row is None else _record(row)

    def of_open_groups(self) -> list[TaskRecord]:
        """What is known of the tasks whose groups are open, one record a group."""
        query = (
            "SELECT g.task_id AS open_id, t.* FROM groups g LEFT JOIN tasks t ON t.id = g.task_id"
            " WHERE g.kind = 'train' AND g.state = 'open' ORDER BY g.id"
        )
        rows = self.connection.execute(query)
        return [TaskRecord(row["open_id"]) if row["id"] is None else _record(row) for row in rows]

    def add(self, task: str, success: bool, turns: int, version: int) -> None:
        """Count one episode."""
        new = self.of(task).after(success, turns, version)
        self.connection.execute(
            "INSERT INTO tasks (id, attempts, successes, failures, recent, lengths, last_version)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET attempts = excluded.attempts,"
            " successes = excluded.successes, failures = excluded.failures, recent = excluded.recent,"
            " lengths = excluded.lengths, last_version = excluded.last_version",
            (task, new.attempts, new.successes, new.failures, new.recent, json.dumps(new.lengths), new.last_version),
        )

    def set_aside(self, task: str, reason: str) -> None:
        """Never play the task again."""
        self.connection.execute(
            "INSERT INTO tasks (id, unfit) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET unfit = excluded.unfit",
            (task, reason),
        )

    def trained_aside(self) -> int:
        """How many tasks of training are set aside."""
        query = "SELECT COUNT(*) FROM tasks WHERE unfit <> '' AND id NOT LIKE 'evaluation %'"
        return int(self.connection.execute(query).fetchone()[0])

    def is_set_aside(self, task: str) -> bool:
        """Whether nobody can play the task."""
        row = self.connection.execute("SELECT unfit FROM tasks WHERE id = ?", (task,)).fetchone()
        return row is not None and row["unfit"] != ""

    def aside(self, most: int) -> tuple[int, list[tuple[str, str]]]:
        """How many tasks are set aside, and the first of them with their reasons."""
        count = self.connection.execute("SELECT COUNT(*) FROM tasks WHERE unfit <> ''").fetchone()[0]
        query = "SELECT id, unfit FROM tasks WHERE unfit <> '' ORDER BY id LIMIT ?"
        return int(count), [(row["id"], row["unfit"]) for row in self.connection.execute(query, (most,))]


def _record(row: sqlite3.Row) -> TaskRecord:
    return TaskRecord(
        id=row["id"],
        attempts=row["attempts"],
        successes=row["successes"],
        failures=row["failures"],
        recent=row["recent"],
        lengths=tuple(json.loads(row["lengths"])),
        last_version=row["last_version"],
    )
