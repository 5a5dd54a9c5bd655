"""Trajectories as trees of segments that share prefixes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shoal.api.services.common import VersionSpan
from shoal.api.services.tree import Segment, check_tree, full_tokens, trainable


def segment(tokens: list[int], parent: int | None = None, shared: int = 0, *, sampled: bool = True) -> Segment:
    size = len(tokens)
    return Segment(
        token_ids=tokens,
        loss_mask=[int(sampled)] * size,
        logprobs=[-0.5 * sampled] * size,
        versions=[VersionSpan(version=0, start=0, end=size)] if sampled else [],
        parent=parent,
        shared=shared,
    )


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[Segment], list[list[int]]]:
    """A random tree, and the whole sequence of each segment as it was made."""
    segments: list[Segment] = []
    whole: list[list[int]] = []
    for index in range(draw(st.integers(1, 8))):
        own = draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))
        parent = draw(st.none() | st.integers(0, index - 1)) if index else None
        shared = 0 if parent is None else draw(st.integers(0, len(whole[parent])))
        segments.append(segment(own, parent, shared, sampled=draw(st.booleans())))
        whole.append([*([] if parent is None else whole[parent][:shared]), *own])
    return segments, whole


@given(trees())
def test_every_whole_sequence_is_found_again(tree: tuple[list[Segment], list[list[int]]]) -> None:
    segments, whole = tree
    check_tree(segments)
    assert [full_tokens(segments, index) for index in range(len(segments))] == whole


@given(trees())
def test_what_is_trainable_keeps_each_sampled_token_and_its_prefix(
    tree: tuple[list[Segment], list[list[int]]],
) -> None:
    segments, whole = tree
    kept = trainable(segments)
    check_tree(kept)
    sampled = [whole[index] for index, each in enumerate(segments) if any(each.loss_mask)]
    assert [full_tokens(kept, index) for index, each in enumerate(kept) if any(each.loss_mask)] == sampled


def test_a_branch_that_nothing_needs_is_left_out() -> None:
    segments = [segment([1, 2], sampled=False), segment([3], 0, 1, sampled=False), segment([4], 0, 2)]
    assert [(each.token_ids, each.parent) for each in trainable(segments)] == [([1, 2], None), ([4], 0)]


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([segment([1], 0, 0)], r"segments\[0\]\.parent is 0; it must be below 0"),
        ([segment([1, 2]), segment([3], 0, 3)], r"segments\[1\]\.shared is 3, and segment 0 has 2 tokens"),
    ],
)
def test_a_parent_is_earlier_and_has_what_is_shared(segments: list[Segment], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_tree(segments)


def test_a_root_shares_nothing() -> None:
    with pytest.raises(ValidationError, match="shares nothing"):
        segment([1], None, 1)
