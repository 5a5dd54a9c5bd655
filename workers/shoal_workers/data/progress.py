"""The trainer's progress, and when training is over."""

import json
import sqlite3
from dataclasses import dataclass

from shoal.api.services.roles.data import DataConfig
from shoal.api.services.trajectories import ProgressReport, RewardFigures
from shoal_workers.data import meta
from shoal_workers.data.counters import counts
from shoal_workers.data.store import scalar

DEFAULT_WINDOW = 5
"""Steps whose mean reward is reported as the window where no success policy names one."""


BEST = "best_reward"


@dataclass
class Progress:
    """Operations on steps, inside the caller's transaction."""

    connection: sqlite3.Connection
    config: DataConfig

    @property
    def version(self) -> int:
        """The trainer's weight version, which staleness is measured against; it never goes back."""
        return meta.get_int(self.connection, "version")

    @property
    def step(self) -> int:
        """Steps done."""
        return meta.get_int(self.connection, "step")

    @property
    def finished(self) -> bool:
        """Whether training is over (an evaluation may still be due)."""
        return meta.get(self.connection, "finished") == "yes"

    def finish(self) -> None:
        """Training is over."""
        meta.put(self.connection, "finished", "yes")

    def report(self, report: ProgressReport, now: float) -> None:
        """Take the trainer's word for version and step; one that was taken before changes nothing."""
        meta.set_int(self.connection, "version", max(self.version, report.version))
        if report.step > self.step:
            meta.set_int(self.connection, "step", report.step)
        if report.step > 0:
            self.connection.execute(
                "INSERT INTO steps (step, version, finished_at, metrics) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (step) DO NOTHING",
                (report.step, report.version, now, json.dumps(report.metrics)),
            )
        figures = self.rewards()
        if figures.best is not None:
            meta.put(self.connection, BEST, repr(figures.best))

    def go_back(self, step: int) -> None:
        """The trainer starts from its checkpoint of `step`: later steps were not kept and will be done again."""
        if not self.finished and step < self.step:
            meta.set_int(self.connection, "step", step)
            self.connection.execute("DELETE FROM steps WHERE step > ?", (step,))

    def goal_reached(self) -> bool:
        """Whether the last step is done, or the success policy is met."""
        if self.step >= self.config.steps:
            return True
        success = self.config.success
        if success is None:
            return False
        means = self.step_rewards(success.window)
        return len(means) == success.window and sum(means) / len(means) >= success.reward

    def step_rewards(self, last: int) -> list[float]:
        """Mean reward of the trajectories that each of the last steps was trained on, oldest first."""
        query = "SELECT total / count AS mean FROM step_rewards ORDER BY step DESC LIMIT ?"
        return [row["mean"] for row in self.connection.execute(query, (last,))][::-1]

    def rewards(self) -> RewardFigures:
        """Mean reward of the last step, of the window that ends with it, and of the best window."""
        window = self.config.success.window if self.config.success else DEFAULT_WINDOW
        means = self.step_rewards(window)
        if not means:
            return RewardFigures()
        now = sum(means) / len(means)
        best = meta.get(self.connection, BEST)
        return RewardFigures(last=means[-1], window=now, best=max(now, float(best)) if best else now)

    def per_minute(self) -> float:
        """Trained trajectories per minute, between the first and the last step."""
        first, last = (
            self.connection.execute(f"SELECT step, finished_at FROM steps ORDER BY step {way} LIMIT 1").fetchone()
            for way in ("ASC", "DESC")
        )
        if first is None or last["finished_at"] <= first["finished_at"]:
            return 0.0
        trained = sum(counts(self.connection, "staleness").values())
        before = scalar(self.connection, "SELECT SUM(count) FROM step_rewards WHERE step <= ?", first["step"]) or 0
        return float(60.0 * (trained - before) / (last["finished_at"] - first["finished_at"]))
