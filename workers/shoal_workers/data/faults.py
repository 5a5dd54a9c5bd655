"""Faults, counted by their cause: how they slow a job down, and when they halt it."""

import sqlite3
from dataclasses import dataclass

from shoal.api.services.common import Finding
from shoal.api.services.trajectories import EpisodeOutcome

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
"""Ten faults in a row then take three quarters of a minute: a service that restarts is back by then, and a job is not
halted because everything failed at once within the same second."""
TOLD_FROM = 3
"""Faults in a row of one cause from which the status tells of it; one or two are a restart somewhere."""

_OF_AN_ENVIRONMENT = (EpisodeOutcome.ENVIRONMENT_ERROR, EpisodeOutcome.GRADER_ERROR)
_REASONS = {
    EpisodeOutcome.ENVIRONMENT_ERROR: "EnvironmentFaults",
    EpisodeOutcome.GRADER_ERROR: "GraderFaults",
    EpisodeOutcome.ENGINE_ERROR: "EngineFaults",
    EpisodeOutcome.AGENT_ERROR: "AgentFaults",
}


def pause_after(consecutive: int) -> float:
    """Seconds for which nothing is handed out after this many faults in a row: none after one, then doubling."""
    if consecutive <= 1:
        return 0.0
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(consecutive - 1, 30))


@dataclass(frozen=True)
class Cause:
    """What failed: an outcome and, for environments and graders, whose."""

    outcome: EpisodeOutcome
    environment: str = ""

    @classmethod
    def of(cls, outcome: EpisodeOutcome, environment: str) -> "Cause":
        """The cause of a fault in an episode of this environment."""
        return cls(outcome, environment if outcome in _OF_AN_ENVIRONMENT else "")

    @property
    def key(self) -> str:
        """The cause as text: `engine_error`, `environment_error of lake`."""
        return f"{self.outcome} of {self.environment}" if self.environment else str(self.outcome)


@dataclass(frozen=True)
class Causes:
    """Faults in a row by cause, inside the caller's transaction."""

    connection: sqlite3.Connection

    def counts(self, cause: Cause, claimed_at: float) -> bool:
        """Whether a fault of an episode claimed then is one more in the row.

        Episodes that were under way when the last one was counted tell of the same event: one dead member takes all its
        episodes along, and that is one fault.
        """
        row = self.connection.execute("SELECT counted_at FROM causes WHERE cause = ?", (cause.key,)).fetchone()
        return row is None or claimed_at > row["counted_at"]

    def count(self, cause: Cause, detail: str, now: float) -> int:
        """One more; returns how many in a row."""
        self.connection.execute(
            "INSERT INTO causes (cause, count, counted_at, detail) VALUES (?, 1, ?, ?) ON CONFLICT (cause) DO UPDATE"
            " SET count = count + 1, counted_at = excluded.counted_at, detail = excluded.detail",
            (cause.key, now, detail),
        )
        row = self.connection.execute("SELECT count FROM causes WHERE cause = ?", (cause.key,)).fetchone()
        return int(row["count"])

    def worked(self, environment: str) -> None:
        """An episode of this environment came to its end: whatever is not another environment's works."""
        own = [Cause.of(outcome, environment).key for outcome in _REASONS]
        marks = ", ".join("?" * len(own))
        self.connection.execute(f"UPDATE causes SET count = 0 WHERE count > 0 AND cause IN ({marks})", own)

    def most(self) -> int:
        """The longest row."""
        return int(self.connection.execute("SELECT COALESCE(MAX(count), 0) FROM causes").fetchone()[0])

    def pause_until(self) -> float:
        """When something may be handed out again."""
        rows = self.connection.execute("SELECT count, counted_at FROM causes WHERE count > 1").fetchall()
        return max((row["counted_at"] + pause_after(row["count"]) for row in rows), default=0.0)

    def findings(self) -> list[Finding]:
        """What has failed several times in a row, and has not worked since."""
        query = "SELECT * FROM causes WHERE count >= ? ORDER BY count DESC"
        return [
            Finding(
                reason=_REASONS[EpisodeOutcome(row["cause"].partition(" ")[0])],
                message=f"{row['count']} episodes in a row ended with {row['cause']}; the last one: {row['detail']}"[
                    :4096
                ],
            )
            for row in self.connection.execute(query, (TOLD_FROM,))
        ]
