"""What a trajectory must be to be stored: checked once, on arrival, so that no hand-over can fail on it later."""

from __future__ import annotations

import numpy as np

from shoal.api.services.trajectories import Batch, TrainGroup, TrainTrajectory, TrajectoryRecord
from shoal_workers.service import ProblemError
from shoal_workers.tokens.arrays import NOT_SAMPLED, TokenArrays, from_batch

__all__ = ["arrays_of", "check", "refused"]

FUTURE_VERSIONS = 2
"""Engines may serve a version before the trainer reports it here; one that restarts skips a number besides."""
LOGPROB_SLACK = 1e-3
"""What rounding in half precision may add to the log-probability 0 of a certain token."""


def arrays_of(record: TrajectoryRecord) -> TokenArrays:
    """The record's tokens as arrays; raises a problem for a token id or version that no array can hold."""
    trajectory = TrainTrajectory.model_construct(
        id=record.assignment_id,
        segments=record.segments,
        reward=record.reward,
        outcome=record.outcome,
        turns=record.turns,
    )
    group = TrainGroup.model_construct(id="", task_id="", trajectories=[trajectory])
    try:
        return from_batch(Batch.model_construct(id="", groups=[group], expires_at=0.0, lease_seconds=0.0))
    except (OverflowError, ValueError) as error:
        raise refused("segments", f"a token id, a loss mask or a version is out of range: {error}") from None


def check(arrays: TokenArrays, newest: int, vocabulary: int | None) -> None:
    """Raise a problem that names the field unless every token can be trained on.

    `newest` is the newest weight version that the trainer has reported, `vocabulary` the number of token ids that its
    model has, None while it is not known.
    """
    sampled = arrays.loss_mask == 1
    if not sampled.any():
        raise refused("segments", "no token was sampled by any weight version")
    _all(arrays, "loss_mask", arrays.loss_mask <= 1, "is neither 0 nor 1")
    _all(arrays, "token_ids", arrays.token_ids >= 0, "is negative")
    if vocabulary is not None:
        _all(arrays, "token_ids", arrays.token_ids < vocabulary, f"is outside the vocabulary of {vocabulary}")
    _all(arrays, "logprobs", np.isfinite(arrays.logprobs), "is no finite number")
    _all(arrays, "logprobs", ~sampled | (arrays.logprobs <= LOGPROB_SLACK), "is positive")
    _all(arrays, "versions", ~sampled | (arrays.token_versions != NOT_SAMPLED), "is missing for a sampled token")
    limit = newest + FUTURE_VERSIONS
    _all(arrays, "versions", arrays.token_versions <= limit, f"is newer than the trainer's version {newest}")


def refused(field: str, reason: str) -> ProblemError:
    """The problem for a field of a record."""
    errors = [{"field": field, "reason": reason}]
    return ProblemError("invalid-trajectory", f"{field}: {reason}", status=422, extensions={"errors": errors})


def _all(arrays: TokenArrays, name: str, good: np.ndarray, reason: str) -> None:
    if good.all():
        return
    at = int(np.argmin(good))
    segment = int(np.searchsorted(arrays.segment_offsets, at, side="right")) - 1
    values = arrays.token_versions if name == "versions" else getattr(arrays, name)
    place = at - int(arrays.segment_offsets[segment])
    raise refused(f"segments[{segment}].{name}[{place}]", f"{values[at]} {reason}")
