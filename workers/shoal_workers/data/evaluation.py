"""Evaluations: fresh episodes, never trained on, that measure one weight version.

The first one measures version 0 and comes before any training, so that all its tokens are version 0; the last one
measures the final weights after training; between them one may be asked for every so many steps (its tokens are of that
version or a little newer).
"""

import sqlite3
from dataclasses import dataclass

from shoal.api.services.roles.data import DataConfig, EvaluationConfig
from shoal.api.services.trajectories import EpisodeKind, EvaluationFigures
from shoal_workers.data.groups import Groups
from shoal_workers.data.store import scalar
from shoal_workers.data.tasks import Task


@dataclass
class Evaluations:
    """Operations on evaluations, inside the caller's transaction."""

    connection: sqlite3.Connection
    config: DataConfig
    groups: Groups

    def ensure(self, purpose: str, version: int) -> None:
        """Start the evaluation of this purpose and version, unless it was started before or none is asked for."""
        asked = self.config.evaluation
        query = "SELECT COUNT(*) FROM evaluations WHERE purpose = ? AND (version = ? OR purpose <> 'periodic')"
        if asked is None or scalar(self.connection, query, purpose, version):
            return
        tasks = [Task(f"evaluation-{seed}", {"seed": seed}) for seed in seeds_of(asked)]
        environment = self.config.environments[0]
        group = self.groups.open(EpisodeKind.EVALUATE, f"evaluation-{purpose}-{version}", environment, tasks, version)
        self.connection.execute(
            "INSERT INTO evaluations (group_id, purpose, version) VALUES (?, ?, ?)", (group, purpose, version)
        )

    def settle(self, group: int, now: float) -> bool:
        """Compute an evaluation's success once all its episodes are in; whether it did."""
        query = (
            "SELECT COUNT(*) FROM evaluations e JOIN groups g ON g.id = e.group_id"
            " WHERE e.group_id = ? AND g.state = 'measured' AND e.success IS NULL"
        )
        if not scalar(self.connection, query, group):
            return False
        query = "SELECT AVG(reward >= ?) FROM trajectories WHERE group_id = ?"
        success = scalar(self.connection, query, self._threshold(), group)
        self.connection.execute(
            "UPDATE evaluations SET success = ?, finished_at = ? WHERE group_id = ?", (success, now, group)
        )
        return True

    def _threshold(self) -> float:
        asked = self.config.evaluation
        own = asked.success_threshold if asked else None
        return self.config.tasks.success_threshold if own is None else own

    def waiting(self, purpose: str) -> bool:
        """Whether an evaluation of this purpose is asked for and not measured yet."""
        if self.config.evaluation is None:
            return False
        query = "SELECT COUNT(*) FROM evaluations WHERE purpose = ? AND success IS NOT NULL"
        return int(scalar(self.connection, query, purpose)) == 0

    def figures(self) -> EvaluationFigures:
        """Success by purpose, as far as it is measured."""
        query = "SELECT purpose, version, success FROM evaluations WHERE success IS NOT NULL ORDER BY finished_at"
        rows = self.connection.execute(query).fetchall()
        by_purpose = {row["purpose"]: row["success"] for row in rows}
        latest = rows[-1] if rows else None
        return EvaluationFigures(
            initial=by_purpose.get("initial"),
            latest=latest["success"] if latest else None,
            final=by_purpose.get("final"),
            version=latest["version"] if latest else -1,
            episodes=self.config.evaluation.episodes if self.config.evaluation else 0,
        )


def seeds_of(asked: EvaluationConfig) -> range:
    """The held-out seeds: the same for every evaluation of a job, so that its figures compare."""
    return range(asked.seeds_start, asked.seeds_start + asked.episodes)
