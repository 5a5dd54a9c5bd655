"""What a run did, from the store alone: the curve, what became of every episode, and the proof that none was trained
twice or lost.
"""

import json
import sqlite3

from shoal.api.services.report import EvaluationPoint, Proof, RunReport, StepPoint
from shoal.api.services.roles.data import DataConfig
from shoal_workers.data.store import scalar

Connection = sqlite3.Connection


def make_report(connection: Connection, config: DataConfig) -> RunReport:
    """The whole report."""
    return RunReport(
        job=config.job,
        seed=config.seed,
        optimum=config.evaluation.optimum if config.evaluation else None,
        steps=_steps(connection),
        evaluations=_evaluations(connection),
        outcomes=outcomes(connection),
        dropped=dropped(connection),
        staleness=staleness_histogram(connection),
        proof=_proof(connection),
    )


def outcomes(connection: Connection) -> dict[str, int]:
    """Finished episodes by outcome, faults included."""
    counts = _counts(connection, "SELECT outcome, COUNT(*) FROM trajectories GROUP BY outcome")
    return counts | _counts(connection, "SELECT outcome, COUNT(*) FROM faults GROUP BY outcome")


def dropped(connection: Connection) -> dict[str, int]:
    """Recorded trajectories that were never trained on, by the reason of their group."""
    query = (
        "SELECT g.reason, COUNT(*) FROM trajectories t JOIN groups g ON g.id = t.group_id WHERE g.state = 'dropped'"
        " GROUP BY g.reason"
    )
    return _counts(connection, query)


def staleness_histogram(connection: Connection) -> dict[int, int]:
    """Trained trajectories by the number of versions that their oldest token lags behind."""
    rows = connection.execute("SELECT staleness, COUNT(*) AS n FROM trainings GROUP BY staleness ORDER BY staleness")
    return {row["staleness"]: row["n"] for row in rows}


def _counts(connection: Connection, query: str) -> dict[str, int]:
    return {str(row[0]): int(row[1]) for row in connection.execute(query)}


def _steps(connection: Connection) -> list[StepPoint]:
    query = (
        "SELECT s.step, s.version, s.finished_at, s.metrics, AVG(t.reward) AS reward, COUNT(t.id) AS trajectories,"
        " AVG(t.turns) AS turns, AVG(x.staleness) AS staleness FROM steps s LEFT JOIN trainings x ON x.step = s.step"
        " LEFT JOIN trajectories t ON t.id = x.trajectory_id GROUP BY s.step ORDER BY s.step"
    )
    rows = connection.execute(query).fetchall()
    return [
        StepPoint(
            step=row["step"],
            version=row["version"],
            finished_at=row["finished_at"],
            reward=row["reward"],
            trajectories=row["trajectories"],
            turns=row["turns"],
            staleness=row["staleness"],
            metrics=json.loads(row["metrics"]),
        )
        for row in rows
    ]


def _evaluations(connection: Connection) -> list[EvaluationPoint]:
    query = (
        "SELECT e.*, g.size, MIN(t.oldest_version) AS oldest, MAX(t.newest_version) AS newest FROM evaluations e"
        " JOIN groups g ON g.id = e.group_id JOIN trajectories t ON t.group_id = g.id"
        " WHERE e.success IS NOT NULL GROUP BY e.group_id ORDER BY e.finished_at"
    )
    return [
        EvaluationPoint(
            purpose=row["purpose"],
            version=row["version"],
            success=row["success"],
            episodes=row["size"],
            oldest_version=row["oldest"],
            newest_version=row["newest"],
            finished_at=row["finished_at"],
        )
        for row in connection.execute(query)
    ]


def _proof(connection: Connection) -> Proof:
    """Counted from the rows themselves, not from counters that code keeps."""

    def count(query: str) -> int:
        return int(scalar(connection, query))

    train = "SELECT t.id FROM trajectories t JOIN groups g ON g.id = t.group_id WHERE g.kind = 'train'"
    return Proof(
        recorded=count(f"SELECT COUNT(*) FROM ({train})"),
        trained=count("SELECT COUNT(DISTINCT trajectory_id) FROM trainings"),
        trained_more_than_once=count(
            "SELECT COUNT(*) FROM (SELECT trajectory_id FROM trainings GROUP BY trajectory_id HAVING COUNT(*) > 1)"
        ),
        dropped=count(f"SELECT COUNT(*) FROM ({train} AND g.state = 'dropped')"),
        waiting=count(f"SELECT COUNT(*) FROM ({train} AND g.state IN ('open', 'complete', 'leased'))"),
        lost=count(
            f"SELECT COUNT(*) FROM ({train} AND g.state = 'consumed'"
            " AND t.id NOT IN (SELECT trajectory_id FROM trainings))"
        ),
    )
