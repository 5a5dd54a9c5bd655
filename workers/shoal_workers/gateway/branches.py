"""The tokens of a session's model calls, as a tree: what two prompts begin with alike stands there once.

A call whose prompt goes on from a whole branch extends it. Any other call starts a branch off the one that it shares
most tokens with, so that a rewritten history or a sub-agent costs what is new in it, and each sampled token is recorded
once.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from shoal.api.services.common import VersionSpan
from shoal.api.services.models import GenerateResult, SessionSegment
from shoal_workers.tokens.spans import joined

# A program that rewrites its history at every call makes a branch of each; only the newest are compared with.
COMPARED = 64


@dataclass(slots=True)
class Branch:
    """A branch's own tokens after the first `shared` ones of its parent's whole sequence.

    Machine numbers, because lists of them would take six times the memory; log-probs of the sampled tokens alone, which
    are those that `spans` cover.
    """

    parent: int | None = None
    shared: int = 0
    tokens: array[int] = field(default_factory=lambda: array("i"))
    logprobs: array[float] = field(default_factory=lambda: array("d"))
    spans: list[VersionSpan] = field(default_factory=list)

    @property
    def end(self) -> int:
        """Length of the whole sequence that ends with this branch."""
        return self.shared + len(self.tokens)

    def extend(self, given: array[int], result: GenerateResult) -> None:
        """Add tokens that were given, then those that were sampled."""
        before = len(self.tokens) + len(given)
        self.tokens.extend(given)
        self.tokens.extend(result.token_ids)
        self.logprobs.extend(result.logprobs)
        self.spans = joined([(before, self.spans), (len(result.token_ids), result.versions)])

    def segment(self) -> SessionSegment:
        """The branch as a message."""
        mask, logprobs = [0] * len(self.tokens), [0.0] * len(self.tokens)
        values = iter(self.logprobs)
        for span in self.spans:
            for index in range(span.start, span.end):
                mask[index], logprobs[index] = 1, next(values)
        return SessionSegment(
            token_ids=self.tokens.tolist(),
            loss_mask=mask,
            logprobs=logprobs,
            versions=self.spans,
            parent=self.parent,
            shared=self.shared,
        )


@dataclass(slots=True)
class Tree:
    """The branches of one session, parents first; `size` is how many tokens they hold."""

    branches: list[Branch] = field(default_factory=list)
    size: int = 0

    def add(self, prompt: Sequence[int], result: GenerateResult) -> tuple[int, int]:
        """Record a call; gives the branch that it ended in and the length of that branch's whole sequence."""
        asked = array("i", prompt)
        index, shared = self._closest(asked)
        if index is None or shared < self.branches[index].end:
            self.branches.append(Branch(index if shared else None, shared))
            index = len(self.branches) - 1
        branch = self.branches[index]
        given = asked[branch.end :]
        branch.extend(given, result)
        self.size += len(given) + len(result.token_ids)
        return index, branch.end

    def whole(self, index: int, length: int) -> array[int]:
        """The first `length` tokens of the whole sequence that ends with branch `index`."""
        parts: list[array[int]] = []
        at: int | None = index
        keep = length
        while at is not None:
            branch = self.branches[at]
            if keep > branch.shared:
                parts.append(branch.tokens[: keep - branch.shared])
                keep = branch.shared
            at = branch.parent
        found: array[int] = array("i")
        for part in reversed(parts):
            found.extend(part)
        return found

    def segments(self) -> list[SessionSegment]:
        """All branches as messages."""
        return [branch.segment() for branch in self.branches]

    def _closest(self, prompt: array[int]) -> tuple[int | None, int]:
        """The branch that the prompt shares most tokens with, and how many; one that it extends as a whole is best."""
        best: tuple[int | None, int] = (None, 0)
        for index in range(len(self.branches) - 1, max(-1, len(self.branches) - 1 - COMPARED), -1):
            branch = self.branches[index]
            if branch.end <= best[1]:
                continue
            whole = self.whole(index, min(branch.end, len(prompt)))
            shared = common(whole, prompt)
            if shared == branch.end:
                return index, shared
            if shared > best[1]:
                best = index, shared
        return self._owner(best[0], best[1]), best[1]

    def _owner(self, index: int | None, length: int) -> int | None:
        """The branch that holds token number `length` of a whole sequence itself."""
        while index is not None and length <= self.branches[index].shared:
            index = self.branches[index].parent
        return index


def common(one: array[int], other: array[int]) -> int:
    """Number of leading values that are equal; by halves, as comparing slices costs little."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low < high - 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
