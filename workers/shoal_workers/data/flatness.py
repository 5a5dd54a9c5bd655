"""Groups whose rewards are all equal: they teach nothing, and a job that gets only such groups stands still."""

import sqlite3
from collections import Counter
from dataclasses import dataclass

from shoal.api.services.common import Finding
from shoal_workers.data import meta

_KEY = "group_kinds"
REMEMBERED = 256
FEWEST = 16
"""Flat groups in a row from which the job says so; a quarter of the groups being mixed makes 16 flat ones in a row a
matter of one in a hundred."""


def kind_of(rewards: list[float], threshold: float) -> str:
    """`m`: mixed; else all equal: `r` all right, `w` all wrong."""
    if max(rewards) != min(rewards):
        return "m"
    return "r" if rewards[0] >= threshold else "w"


@dataclass(frozen=True)
class Flatness:
    """The kinds of the newest groups, inside the caller's transaction."""

    connection: sqlite3.Connection
    batch_groups: int

    def add(self, kind: str) -> None:
        """One more group is complete."""
        meta.put(self.connection, _KEY, (meta.get(self.connection, _KEY) + kind)[-REMEMBERED:])

    def finding(self) -> Finding | None:
        """What to tell while the newest groups are all flat."""
        kinds = meta.get(self.connection, _KEY)
        flat = kinds[kinds.rfind("m") + 1 :]
        if len(flat) < min(REMEMBERED, max(FEWEST, 2 * self.batch_groups)):
            return None
        shares = Counter(flat)
        right, wrong = shares["r"] / len(flat), shares["w"] / len(flat)
        advice = (
            "use easier tasks, more turns or a reward for partial success"
            if wrong >= right
            else "use harder tasks, or end the job: these are mastered"
        )
        told = f"in the last {len(flat)} groups all rewards are equal ({right:.0%} all right, {wrong:.0%} all wrong)"
        return Finding(reason="NothingToLearn", message=f"{told}, so nothing can be learned from them; {advice}")
