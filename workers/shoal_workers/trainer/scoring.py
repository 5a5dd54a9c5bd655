"""Log-probs of a batch's sampled tokens under the policy, or under other weights, without gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from shoal_workers.trainer.batching import TrainRows
from shoal_workers.trainer.gang import Gang
from shoal_workers.trainer.packing import MicroBatch, Plan, lay_out, plan
from shoal_workers.trainer.policy import Policy
from shoal_workers.trainer.sharding import computing, settled

Wanted = Literal["terms", "hidden"]


@dataclass(frozen=True, slots=True)
class Passes:
    """How batches go through a policy: in which processes, in which type, and how many tokens at once."""

    policy: Policy
    gang: Gang
    dtype: torch.dtype
    budget: int
    most_rows: int | None = None

    def planned(self, batch: TrainRows, rows: Sequence[int]) -> Plan:
        """The micro-batches of some rows, the same on every process."""
        packed = self.policy.traits.packs and self.most_rows is None
        return plan(batch.lengths.tolist(), rows, self.budget, packed, self.most_rows)

    def own(self, batch: TrainRows, planned: Plan) -> Iterator[tuple[MicroBatch, bool]]:
        """This process's micro-batches. All get as many, because a forward pass is a meeting of all: who has one less
        takes the first again, which then does not count.
        """
        gang = self.gang
        rounds = -(-len(planned) // gang.size)
        for turn in range(rounds):
            place = turn * gang.size + gang.rank
            counts = place < len(planned)
            yield lay_out(batch, planned[place if counts else 0]).to(gang.device), counts


@dataclass(frozen=True, slots=True)
class Scores:
    """Of the batch's N sampled tokens, in order: log-probs [N] and entropies [N]; 0 where rows were left out."""

    logprobs: Tensor
    entropy: Tensor


@torch.no_grad()
def score(passes: Passes, batch: TrainRows, rows: Sequence[int] | None = None) -> Scores:
    """The scores of the rows (None: all) under the policy's weights as they are."""
    size = int(batch.sampled.sum())
    both = torch.zeros(2, size, device=passes.gang.device)
    with computing(passes.policy, passes.gang, passes.dtype):
        for micro, counts in passes.own(batch, passes.planned(batch, range(batch.rows) if rows is None else rows)):
            terms = passes.policy.terms(micro)
            if counts:
                both[0, micro.tokens] = terms.logprobs
                both[1, micro.tokens] = terms.entropy
    settled(passes.policy)
    passes.gang.sum(both)
    return Scores(both[0], both[1])


@torch.no_grad()
def hidden(passes: Passes, batch: TrainRows) -> Tensor:
    """The last hidden states [N, D] before the batch's sampled tokens, in the type that passes compute in."""
    size = int(batch.sampled.sum())
    width = int(passes.policy.head().weight.shape[1])
    states = torch.zeros(size, width, dtype=passes.dtype, device=passes.gang.device)
    with computing(passes.policy, passes.gang, passes.dtype):
        for micro, counts in passes.own(batch, passes.planned(batch, range(batch.rows))):
            part = passes.policy.hidden(micro)
            if counts:
                states[micro.tokens] = part.to(states.dtype)
    settled(passes.policy)
    return passes.gang.sum(states)
