"""Whose weights a fleet serves: one run at a time, because versions of two runs compare with nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from shoal.api.services.models import WeightsTarget

# A trainer repeats its target every 10 s. One that starts again (torch, Ray, a checkpoint) is back well before this;
# were it shorter, two jobs on one fleet would take it from each other in turn.
TENURE_SECONDS = 120.0
# A trainer that stops says so, but not whether it will be back: long enough to start again, short enough that the next
# job on the fleet, which has to start as well, mostly does not notice.
LEAVE_SECONDS = 30.0


class Verdict(Enum):
    """What becomes of an offered target."""

    TAKEN = "taken"
    OLDER = "older"
    IN_USE = "in use"


@dataclass(frozen=True, slots=True)
class Tenure:
    """The target, and when the run that it is of was last heard of (the gateway's clock)."""

    target: WeightsTarget
    heard: float

    def left(self, now: float) -> float:
        """Seconds for which no other run may have the fleet, unless this one is heard of again."""
        return max(0.0, self.heard + TENURE_SECONDS - now)


def offered(held: Tenure | None, target: WeightsTarget, now: float, *, reset: bool = False) -> tuple[Verdict, Tenure]:
    """What becomes of `target`, and who holds the fleet then. `reset` takes any."""
    taken = Tenure(target, now)
    if held is None or reset:
        return Verdict.TAKEN, taken
    if target.run != held.target.run:
        # Weights that were published by hand, in nobody's name, are nobody's to keep.
        kept = held.target.run and held.left(now)
        return (Verdict.IN_USE, held) if kept else (Verdict.TAKEN, taken)
    if target.version < held.target.version:
        # Its run is alive all the same: a trainer that went back to a checkpoint.
        return Verdict.OLDER, replace(held, heard=now)
    return Verdict.TAKEN, taken


def left_by(held: Tenure | None, run: str, now: float) -> Tenure | None:
    """Who holds the fleet after the trainer of `run` has stopped."""
    if held is None or held.target.run != run:
        return held
    return replace(held, heard=min(held.heard, now - TENURE_SECONDS + LEAVE_SECONDS))


def reported(held: Tenure | None, weights: WeightsTarget, now: float) -> Tenure:
    """Who holds the fleet after an engine reported weights.

    A gateway that is younger than the roll-out learns it from the engines. What they say proves no trainer alive, but
    where nothing else is known it is given the time to speak up.
    """
    if held is None:
        return Tenure(weights, now)
    newer = weights.run == held.target.run and weights.version > held.target.version
    return replace(held, target=weights) if newer else held
