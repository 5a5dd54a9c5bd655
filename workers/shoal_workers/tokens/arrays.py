"""Batches as token arrays: one safetensors blob instead of JSON numbers, read and written by numpy on both sides.

A batch of G groups, T trajectories, S segments and N tokens is flat: the tokens of all segments stand one after the
other, and offsets say where each segment, trajectory and group begins. `token_ids[segment_offsets[s] :
segment_offsets[s + 1]]` are segment s's own tokens; its full sequence is `full(parent)[:shared]` followed by them.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import save

from shoal.api.services.common import Report, VersionSpan
from shoal.api.services.trajectories import Batch, EpisodeOutcome, Segment, TrainGroup, TrainTrajectory

MEDIA_TYPE = "application/vnd.shoal.batch"

NOT_SAMPLED = -1
"""Weight version of a token that no policy sampled."""
ROOT = -1
"""Parent of a segment that branches off no other."""
_METADATA_KEY = "shoal"


ScalarT = TypeVar("ScalarT", bound=np.generic)


class ArraysError(Exception):
    """The blob is no batch; the message names the array and what is wrong with it."""


class ArrayGroup(Report):
    """What the arrays do not hold of a group."""

    id: str
    task_id: str = ""


class ArrayTrajectory(Report):
    """What the arrays do not hold of a trajectory."""

    id: str
    outcome: EpisodeOutcome = EpisodeOutcome.OK


class ArrayMetadata(Report):
    """The hand-over: batch, lease, and the names of groups [G] and trajectories [T]."""

    batch: str = ""
    expires_at: float = 0.0
    lease_seconds: float = 60.0
    groups: list[ArrayGroup]
    trajectories: list[ArrayTrajectory]


@dataclass(frozen=True, slots=True)
class TokenArrays:
    """The tokens of G groups, T trajectories, S segments, N tokens.

    Attributes:
        token_ids: int32 [N].
        loss_mask: uint8 [N], 1 where the policy sampled the token.
        logprobs: float32 [N], its behaviour log-probability there and 0 elsewhere.
        token_versions: int32 [N], the weight version that sampled it, -1 elsewhere.
        segment_offsets: int64 [S + 1], where each segment's own tokens begin.
        segment_parent: int32 [S], an earlier segment of the same trajectory counted from the trajectory's first; -1: a
            root.
        segment_shared: int32 [S], leading tokens of the parent's full sequence that come before the segment's own.
        trajectory_segments: int64 [T + 1], where each trajectory's segments begin.
        rewards: float64 [T].
        turns: int32 [T].
        group_trajectories: int64 [G + 1], where each group's trajectories begin.
    """

    token_ids: NDArray[np.int32]
    loss_mask: NDArray[np.uint8]
    logprobs: NDArray[np.float32]
    token_versions: NDArray[np.int32]
    segment_offsets: NDArray[np.int64]
    segment_parent: NDArray[np.int32]
    segment_shared: NDArray[np.int32]
    trajectory_segments: NDArray[np.int64]
    rewards: NDArray[np.float64]
    turns: NDArray[np.int32]
    group_trajectories: NDArray[np.int64]
    metadata: ArrayMetadata


_TYPES: Mapping[str, type[np.generic]] = {
    "token_ids": np.int32,
    "loss_mask": np.uint8,
    "logprobs": np.float32,
    "token_versions": np.int32,
    "segment_offsets": np.int64,
    "segment_parent": np.int32,
    "segment_shared": np.int32,
    "trajectory_segments": np.int64,
    "rewards": np.float64,
    "turns": np.int32,
    "group_trajectories": np.int64,
}
_DTYPES = {"I32": np.int32, "U8": np.uint8, "F32": np.float32, "I64": np.int64, "F64": np.float64}
"""What safetensors calls them."""
_CODES: Mapping[type[np.generic], str] = {np.int32: "i", np.uint8: "B", np.float32: "f"}
assert {each.name for each in fields(TokenArrays)} == {*_TYPES, "metadata"}


def encode(arrays: TokenArrays) -> bytes:
    """The blob, little-endian whatever the machine."""
    metadata = {_METADATA_KEY: arrays.metadata.model_dump_json()}
    return save({name: np.ascontiguousarray(getattr(arrays, name)) for name in _TYPES}, metadata)


def decode(blob: bytes, *, checked: bool = False) -> TokenArrays:
    """The arrays of a blob, as views of its bytes; raises ArraysError for anything that `encode` cannot have written.

    `checked` says that the bytes are known to be `encode`'s own, such as by a checksum: how the parts fit together is
    not looked at again.
    """
    try:
        found, metadata = _views(blob)
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise ArraysError(f"not a batch of token arrays: {error}") from None
    for name, kind in _TYPES.items():
        if name not in found:
            raise ArraysError(f"{name}: missing")
        if found[name].dtype != kind or found[name].ndim != 1:
            raise ArraysError(f"{name}: {found[name].dtype}{list(found[name].shape)} instead of {np.dtype(kind)}[n]")
    arrays = TokenArrays(metadata=metadata, **{name: found[name] for name in _TYPES})
    if not checked:
        _check(arrays)
    return arrays


def _views(blob: bytes) -> tuple[dict[str, NDArray[Any]], ArrayMetadata]:
    """The safetensors format: an 8-byte length, a JSON header of that length, then the arrays' bytes.

    Read here rather than by its library, which copies each array and keeps the metadata to itself.
    """
    start = 8 + int.from_bytes(blob[:8], "little")
    header: dict[str, Any] = orjson.loads(blob[8:start])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            if not 0 <= begin <= end <= len(blob) - start:
                raise ValueError(f"{name} lies outside the blob")
            part = memoryview(blob)[start + begin : start + end]
            found[name] = np.frombuffer(part, _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return found, ArrayMetadata.model_validate_json(header["__metadata__"][_METADATA_KEY])


def from_batch(batch: Batch) -> TokenArrays:
    """The arrays of a batch message."""
    trajectories = [trajectory for group in batch.groups for trajectory in group.trajectories]
    segments = [segment for trajectory in trajectories for segment in trajectory.segments]
    lengths = [len(segment.token_ids) for segment in segments]
    mask = _flat([segment.loss_mask for segment in segments], np.uint8)
    return TokenArrays(
        token_ids=_flat([segment.token_ids for segment in segments], np.int32),
        loss_mask=mask,
        logprobs=_flat([segment.logprobs for segment in segments], np.float32),
        token_versions=_versions(segments, mask),
        segment_offsets=offsets(lengths),
        segment_parent=np.array([ROOT if each.parent is None else each.parent for each in segments], np.int32),
        segment_shared=np.array([each.shared for each in segments], np.int32),
        trajectory_segments=offsets([len(trajectory.segments) for trajectory in trajectories]),
        rewards=np.array([trajectory.reward for trajectory in trajectories], np.float64),
        turns=np.array([trajectory.turns for trajectory in trajectories], np.int32),
        group_trajectories=offsets([len(group.trajectories) for group in batch.groups]),
        metadata=ArrayMetadata(
            batch=batch.id,
            expires_at=batch.expires_at,
            lease_seconds=batch.lease_seconds,
            groups=[ArrayGroup(id=group.id, task_id=group.task_id) for group in batch.groups],
            trajectories=[ArrayTrajectory(id=each.id, outcome=each.outcome) for each in trajectories],
        ),
    )


def join(parts: Sequence[TokenArrays], groups: Sequence[int], metadata: ArrayMetadata) -> TokenArrays:
    """Arrays of several batches as one: `groups[g]` trajectories of all of them, in order, are group g."""

    def flat(name: str) -> NDArray[Any]:
        found = [getattr(part, name) for part in parts]
        return np.concatenate(found) if found else np.zeros(0, _TYPES[name])

    def starts(name: str) -> NDArray[np.int64]:
        return offsets(np.concatenate([np.zeros(0, np.int64), *(np.diff(getattr(part, name)) for part in parts)]))

    plain = ("token_ids", "loss_mask", "logprobs", "token_versions", "segment_parent", "segment_shared", "rewards")
    return TokenArrays(
        **{name: flat(name) for name in (*plain, "turns")},
        segment_offsets=starts("segment_offsets"),
        trajectory_segments=starts("trajectory_segments"),
        group_trajectories=offsets(groups),
        metadata=metadata,
    )


def to_batch(arrays: TokenArrays) -> Batch:
    """The batch message of the arrays, for a peer that reads JSON."""
    metadata = arrays.metadata
    trajectories = [_trajectory(arrays, index) for index in range(len(arrays.rewards))]
    starts = arrays.group_trajectories
    groups = [
        TrainGroup(id=group.id, task_id=group.task_id, trajectories=trajectories[starts[g] : starts[g + 1]])
        for g, group in enumerate(metadata.groups)
    ]
    return Batch(id=metadata.batch, groups=groups, expires_at=metadata.expires_at, lease_seconds=metadata.lease_seconds)


def offsets(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Where parts of these lengths begin when they stand one after the other, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(lengths, np.int64))])


def _flat(lists: Sequence[list[Any]], kind: type[ScalarT]) -> NDArray[ScalarT]:
    """The lists one after the other; raises OverflowError or ValueError for a number that the type cannot hold."""
    joined = array(_CODES[kind])
    for each in lists:
        joined.fromlist(each)
    return np.frombuffer(joined, kind) if joined else np.zeros(0, kind)


def _versions(segments: Sequence[Segment], mask: NDArray[np.uint8]) -> NDArray[np.int32]:
    versions = np.full(len(mask), NOT_SAMPLED, np.int32)
    start = 0
    for segment in segments:
        for span in segment.versions:
            versions[start + span.start : start + span.end] = span.version
        start += len(segment.token_ids)
    versions[mask == 0] = NOT_SAMPLED
    return versions


def _trajectory(arrays: TokenArrays, index: int) -> TrainTrajectory:
    first, end = arrays.trajectory_segments[index : index + 2]
    return TrainTrajectory(
        id=arrays.metadata.trajectories[index].id,
        outcome=arrays.metadata.trajectories[index].outcome,
        segments=[_segment(arrays, number) for number in range(first, end)],
        reward=float(arrays.rewards[index]),
        turns=int(arrays.turns[index]),
    )


def _segment(arrays: TokenArrays, index: int) -> Segment:
    part = slice(*arrays.segment_offsets[index : index + 2])
    parent = int(arrays.segment_parent[index])
    return Segment(
        parent=None if parent == ROOT else parent,
        shared=int(arrays.segment_shared[index]),
        token_ids=arrays.token_ids[part].tolist(),
        loss_mask=arrays.loss_mask[part].tolist(),
        logprobs=arrays.logprobs[part].tolist(),
        versions=spans(arrays.token_versions[part]),
    )


def spans(versions: NDArray[np.int32]) -> list[VersionSpan]:
    """The stretches of equal versions among sampled tokens."""
    edges = np.flatnonzero(np.diff(versions)) + 1
    starts, ends = [0, *edges.tolist()], [*edges.tolist(), len(versions)]
    return [
        VersionSpan(version=int(versions[start]), start=start, end=end)
        for start, end in zip(starts, ends, strict=True)
        if end > start and versions[start] != NOT_SAMPLED
    ]


def _check(arrays: TokenArrays) -> None:
    """Raise ArraysError unless the parts fit together."""
    tokens, segments = len(arrays.token_ids), len(arrays.segment_offsets) - 1
    trajectories, groups = len(arrays.trajectory_segments) - 1, len(arrays.group_trajectories) - 1
    lengths = {
        "loss_mask": tokens,
        "logprobs": tokens,
        "token_versions": tokens,
        "segment_parent": segments,
        "segment_shared": segments,
        "rewards": trajectories,
        "turns": trajectories,
    }
    for name, length in lengths.items():
        if len(getattr(arrays, name)) != length:
            raise ArraysError(f"{name}: {len(getattr(arrays, name))} values instead of {length}")
    ends = {"segment_offsets": tokens, "trajectory_segments": segments, "group_trajectories": trajectories}
    for name, end in ends.items():
        starts = getattr(arrays, name)
        if len(starts) == 0 or starts[0] != 0 or starts[-1] != end or np.any(np.diff(starts) < 0):
            raise ArraysError(f"{name}: does not rise from 0 to {end}")
    if len(arrays.metadata.groups) != groups or len(arrays.metadata.trajectories) != trajectories:
        raise ArraysError("metadata: groups or trajectories are not as many as the arrays hold")
    own = np.arange(segments) - np.repeat(arrays.trajectory_segments[:-1], np.diff(arrays.trajectory_segments))
    if np.any(arrays.segment_parent < ROOT) or np.any(arrays.segment_parent >= own):
        raise ArraysError("segment_parent: not an earlier segment of the same trajectory")
    if np.any(arrays.segment_shared < 0) or np.any(arrays.segment_shared[arrays.segment_parent == ROOT] != 0):
        raise ArraysError("segment_shared: negative, or set on a root")
