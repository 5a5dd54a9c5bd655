"""The trajectory as a tree: segments of tokens that share prefixes.

A program that rewrites its history, compacts it, or hands part of it to a sub-agent leaves several prompts that begin
alike. Each stretch of tokens stands in one segment; a later segment names the earlier one that it branches off, so
each sampled token is recorded, and trained, once.

Invariant: `parent` is an index smaller than the segment's own, so a list of segments is in topological order.
"""

from collections.abc import Sequence
from typing import Protocol, Self

from pydantic import Field, model_validator

from shoal.api.services.common import Message, VersionSpan


class Segment(Message):
    """Consecutive tokens as the model saw them, after the first `shared` tokens of the segment `parent`.

    `loss_mask[i]` is 1 where the policy sampled token i; `logprobs[i]` is its behaviour log-probability there and 0
    elsewhere; `versions` cover exactly the sampled tokens (spans over token positions of this segment). All four hold
    the segment's own tokens; the shared prefix belongs to the parent.
    """

    token_ids: list[int] = Field(min_length=1)
    loss_mask: list[int]
    logprobs: list[float]
    versions: list[VersionSpan]
    parent: int | None = Field(None, ge=0, description="Index of an earlier segment of the trajectory; None: a root.")
    shared: int = Field(0, ge=0, description="Leading tokens of the parent's whole sequence that come first; 0: none.")

    @model_validator(mode="after")
    def _aligned(self) -> Self:
        if not len(self.token_ids) == len(self.loss_mask) == len(self.logprobs):
            lengths = (
                f"token_ids ({len(self.token_ids)}), loss_mask ({len(self.loss_mask)}), logprobs ({len(self.logprobs)})"
            )
            raise ValueError(f"different lengths: {lengths}")
        covered = [0] * len(self.token_ids)
        for span in self.versions:
            if span.end > len(covered):
                raise ValueError(f"version span ends at {span.end}, beyond {len(covered)} tokens")
            covered[span.start : span.end] = [1] * (span.end - span.start)
        if any(mask and not cover for mask, cover in zip(self.loss_mask, covered, strict=True)):
            raise ValueError("a sampled token has no weight version")
        if self.parent is None and self.shared:
            raise ValueError(f"shared is {self.shared}, and a segment without a parent shares nothing")
        return self


class Branch(Protocol):
    """What a segment of any message has."""

    @property
    def token_ids(self) -> Sequence[int]:
        """The segment's own tokens."""

    @property
    def parent(self) -> int | None:
        """Index of the earlier segment that it branches off; None: a root."""

    @property
    def shared(self) -> int:
        """Tokens of the parent's whole sequence that come first."""


def check_tree(segments: Sequence[Branch]) -> None:
    """Raise ValueError, naming the segment, unless every parent is an earlier segment that has the shared tokens."""
    lengths: list[int] = []
    for index, segment in enumerate(segments):
        if segment.parent is not None:
            if segment.parent >= index:
                raise ValueError(f"segments[{index}].parent is {segment.parent}; it must be below {index}")
            if segment.shared > lengths[segment.parent]:
                raise ValueError(
                    f"segments[{index}].shared is {segment.shared}, and segment {segment.parent} has"
                    f" {lengths[segment.parent]} tokens"
                )
        lengths.append(segment.shared + len(segment.token_ids))


def full_tokens(segments: Sequence[Branch], index: int) -> list[int]:
    """The whole sequence that ends with segment `index`: its shared prefix, then its own tokens."""
    parts: list[Sequence[int]] = []
    at: int | None = index
    keep = None
    while at is not None:
        segment = segments[at]
        # `keep` counts tokens of this segment's whole sequence that the later segment took over.
        own = segment.token_ids if keep is None else segment.token_ids[: max(0, keep - segment.shared)]
        parts.append(own)
        keep = segment.shared if keep is None else min(keep, segment.shared)
        at = segment.parent
    return [token for part in reversed(parts) for token in part]


class SampledBranch(Branch, Protocol):
    """A branch that tells which of its tokens the policy sampled."""

    @property
    def loss_mask(self) -> Sequence[int]:
        """1 where the policy sampled the token."""

    @property
    def logprobs(self) -> Sequence[float]:
        """Behaviour log-probabilities of the sampled tokens."""

    @property
    def versions(self) -> Sequence[VersionSpan]:
        """Weight versions of the sampled tokens."""


def trainable(segments: Sequence[SampledBranch]) -> list[Segment]:
    """The segments that have sampled tokens, and those that they branch off; parents are numbered anew."""
    needed: set[int] = set()
    for index, segment in enumerate(segments):
        if any(segment.loss_mask):
            at: int | None = index
            while at is not None and at not in needed:
                needed.add(at)
                at = segments[at].parent
    place = {old: new for new, old in enumerate(sorted(needed))}
    return [
        Segment(
            token_ids=list(segments[old].token_ids),
            loss_mask=list(segments[old].loss_mask),
            logprobs=list(segments[old].logprobs),
            versions=list(segments[old].versions),
            parent=None if (parent := segments[old].parent) is None else place[parent],
            shared=segments[old].shared,
        )
        for old in place
    ]
