"""Batches as token arrays: what goes in comes out, and a damaged blob is refused by the array's name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.api.services.common import VersionSpan
from shoal.api.services.trajectories import Batch, EpisodeOutcome, Segment, TrainGroup, TrainTrajectory
from shoal_workers.tokens.arrays import MEDIA_TYPE, ArraysError, decode, encode, from_batch, offsets, spans, to_batch

FLOAT32 = st.floats(-50, 0, width=32)


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    tokens = draw(st.lists(st.integers(0, 200_000), min_size=1, max_size=12))
    versions = draw(st.lists(st.integers(-1, 3), min_size=len(tokens), max_size=len(tokens)))
    sampled = [int(version >= 0) for version in versions]
    return Segment(
        token_ids=tokens,
        loss_mask=sampled,
        logprobs=[draw(FLOAT32) if each else 0.0 for each in sampled],
        versions=spans(np.array(versions, np.int32)),
    )


@st.composite
def trees(draw: st.DrawFn) -> list[Segment]:
    """Segments of which some branch off earlier ones."""
    tree: list[Segment] = []
    for segment in draw(st.lists(segments(), max_size=4)):
        parent = draw(st.one_of(st.none(), st.integers(0, len(tree) - 1))) if tree else None
        shared = 0 if parent is None else draw(st.integers(0, len(tree[parent].token_ids)))
        tree.append(segment.model_copy(update={"parent": parent, "shared": shared}))
    return tree


TRAJECTORIES = st.builds(
    TrainTrajectory,
    id=st.uuids().map(str),
    segments=trees(),
    reward=st.floats(-1e6, 1e6),
    outcome=st.sampled_from([EpisodeOutcome.OK, EpisodeOutcome.TRUNCATED]),
    turns=st.integers(0, 99),
)
BATCHES = st.builds(
    Batch,
    id=st.text(max_size=8),
    groups=st.lists(
        st.builds(TrainGroup, id=st.text(max_size=5), task_id=st.text(max_size=5), trajectories=st.lists(TRAJECTORIES)),
        max_size=4,
    ),
    expires_at=st.floats(0, 1e10),
    lease_seconds=st.floats(0.1, 1e4),
)


@settings(max_examples=50)
@given(batch=BATCHES)
def test_a_batch_comes_back_as_it_was(batch: Batch) -> None:
    assert to_batch(decode(encode(from_batch(batch)))) == batch


def example() -> Batch:
    first = Segment(
        token_ids=[5, 6, 7, 8],
        loss_mask=[0, 1, 1, 0],
        logprobs=[0.0, -0.5, -1.5, 0.0],
        versions=[VersionSpan(version=3, start=1, end=2), VersionSpan(version=4, start=2, end=3)],
    )
    second = Segment(token_ids=[9], loss_mask=[0], logprobs=[0.0], versions=[])
    trajectory = TrainTrajectory(id="a", segments=[first, second], reward=0.25, outcome=EpisodeOutcome.OK, turns=2)
    other = TrainTrajectory(id="b", segments=[second], reward=1.0, outcome=EpisodeOutcome.TRUNCATED, turns=1)
    groups = [TrainGroup(id="1", task_id="t", trajectories=[trajectory, other])]
    return Batch(id="batch", groups=groups, expires_at=9.0, lease_seconds=3.0)


def test_arrays_are_laid_out_as_documented() -> None:
    arrays = from_batch(example())
    assert arrays.token_ids.tolist() == [5, 6, 7, 8, 9, 9]
    assert arrays.loss_mask.tolist() == [0, 1, 1, 0, 0, 0]
    assert arrays.logprobs.tolist() == [0, -0.5, -1.5, 0, 0, 0]
    assert arrays.token_versions.tolist() == [-1, 3, 4, -1, -1, -1]
    assert arrays.segment_offsets.tolist() == [0, 4, 5, 6]
    assert arrays.segment_parent.tolist() == [-1, -1, -1]
    assert arrays.segment_shared.tolist() == [0, 0, 0]
    assert arrays.trajectory_segments.tolist() == [0, 2, 3]
    assert arrays.rewards.tolist() == [0.25, 1.0]
    assert arrays.turns.tolist() == [2, 1]
    assert arrays.group_trajectories.tolist() == [0, 2]


def test_a_version_span_over_tokens_that_nobody_sampled_does_not_reach_them() -> None:
    span = VersionSpan(version=2, start=0, end=3)
    segment = Segment(token_ids=[1, 2, 3], loss_mask=[0, 1, 0], logprobs=[0, -1, 0], versions=[span])
    trajectory = TrainTrajectory(id="a", segments=[segment], reward=0, outcome=EpisodeOutcome.OK, turns=1)
    batch = Batch(id="b", groups=[TrainGroup(id="g", task_id="t", trajectories=[trajectory])], expires_at=0)
    assert from_batch(batch).token_versions.tolist() == [-1, 2, -1]


@pytest.mark.parametrize("blob", [b"", b"12345678", b"\xff" * 64, encode(from_batch(example()))[:-3]])
def test_bytes_that_are_no_batch_are_refused(blob: bytes) -> None:
    with pytest.raises(ArraysError, match="not a batch"):
        decode(blob)


DAMAGE = {
    "logprobs": np.zeros(2, np.float32),
    "loss_mask": np.zeros(6, np.int64),
    "rewards": np.zeros((2, 1)),
    "segment_offsets": np.array([0, 4, 3, 6]),
    "trajectory_segments": np.array([1, 2, 3]),
    "group_trajectories": np.array([0, 1]),
    "segment_parent": np.array([-1, 1, -1], np.int32),
    "segment_shared": np.array([0, 2, 0], np.int32),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_arrays_that_do_not_fit_together_are_refused_by_name(name: str) -> None:
    damaged = dataclasses.replace(from_batch(example()), **{name: DAMAGE[name]})
    with pytest.raises(ArraysError, match=name):
        decode(encode(damaged))


def test_a_parent_lies_before_its_child_in_the_same_trajectory() -> None:
    arrays = from_batch(example())
    child = dataclasses.replace(
        arrays, segment_parent=np.array([-1, 0, -1], np.int32), segment_shared=np.array([0, 3, 0], np.int32)
    )
    assert decode(encode(child)).segment_parent.tolist() == [-1, 0, -1]
    stranger = dataclasses.replace(arrays, segment_parent=np.array([-1, -1, 0], np.int32))
    with pytest.raises(ArraysError, match="segment_parent"):
        decode(encode(stranger))


@given(lengths=st.lists(st.integers(0, 9)))
def test_offsets_cut_what_stands_one_after_the_other(lengths: list[int]) -> None:
    starts = offsets(lengths)
    assert np.diff(starts).tolist() == lengths
    assert starts[0] == 0


def test_the_media_type_is_the_contracts() -> None:
    assert MEDIA_TYPE == "application/vnd.shoal.batch"


def test_an_array_that_lies_outside_the_blob_is_refused() -> None:
    blob = encode(from_batch(example()))
    with pytest.raises(ArraysError, match="outside the blob"):
        decode(blob[:-1])
