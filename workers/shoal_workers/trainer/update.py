"""The updates of one step: epochs, minibatches, and micro-batches whose gradients add up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from shoal.api.services.roles.trainer import TrainerConfig
from shoal_workers.trainer.algorithm import LearningRule, LossResult, LossTokens
from shoal_workers.trainer.algorithm.losses import shares
from shoal_workers.trainer.batching import TrainRows
from shoal_workers.trainer.packing import MicroBatch
from shoal_workers.trainer.scoring import Passes
from shoal_workers.trainer.sharding import computing, settled, whole
from shoal_workers.trainer.vocabulary import Head, Reference


@dataclass(frozen=True, slots=True)
class Original:
    """Of the original weights: log-probs [N] of the sampled tokens, or the hidden states [N, D] before them and the
    output layer, from which any log-prob of the vocabulary follows."""

    logprobs: Tensor | None
    hidden: Tensor | None = None
    head: Head | None = None

    def reference(self, micro: MicroBatch) -> Reference | None:
        """What the micro-batch's distributions are compared with."""
        if self.hidden is None or self.head is None:
            return None
        return Reference(self.hidden[micro.tokens], self.head)


@dataclass(frozen=True, slots=True)
class Fixed:
    """What is constant during a step, of the batch's N sampled tokens in order: [N] each.

    `old_logprobs` and `weights` are filled by the update itself where it is the step's only one.
    """

    old_logprobs: Tensor
    weights: Tensor
    advantages: Tensor
    behaviour: Tensor
    chosen: Tensor
    trajectory: Tensor
    group: Tensor
    row: Tensor
    original: Original | None


class Updates:
    """Runs a step's updates on the policy of `passes`.

    `generator` draws the order of rows, the same in every process.
    """

    def __init__(self, passes: Passes, rule: LearningRule, config: TrainerConfig, optimizer: Optimizer) -> None:
        self._passes = passes
        self._rule = rule
        self._config = config
        self._optimizer = optimizer
        self.generator = torch.Generator().manual_seed(config.seed)

    def run(self, batch: TrainRows, fixed: Fixed, at_once: bool) -> dict[str, float]:
        """All epochs and minibatches; figures are means over the updates that were made.

        `at_once`: the old log-probs are those of the only update.
        """
        total: dict[str, float] = {}
        made = skipped = 0
        for _ in range(self._config.epochs):
            order = torch.randperm(batch.rows, generator=self.generator)
            for minibatch in torch.tensor_split(order, min(self._config.minibatches, batch.rows)):
                figures, finite = self._update(batch, fixed, minibatch, at_once)
                made, skipped = made + finite, skipped + (not finite)
                for name, value in figures.items() if finite else ():
                    total[name] = total.get(name, 0.0) + value
        if at_once:
            self._passes.gang.sum(fixed.old_logprobs)
            self._passes.gang.sum(fixed.weights)
        return {name: value / max(1, made) for name, value in total.items()} | {"updates_skipped": float(skipped)}

    def _update(
        self, batch: TrainRows, fixed: Fixed, minibatch: Tensor, at_once: bool
    ) -> tuple[dict[str, float], bool]:
        """One optimizer step by the rows of a minibatch, if its loss and gradient are finite."""
        share = self._shares(fixed, minibatch)
        figures: dict[str, Tensor] = {}
        used = computed = 0
        for micro, counts in self._passes.own(batch, self._passes.planned(batch, minibatch.tolist())):
            part = self._accumulate(micro, fixed, share if counts else torch.zeros_like(share), at_once and counts)
            figures = {name: figures[name] + value if figures else value for name, value in part.items()}
            used, computed = used + micro.used, computed + micro.computed
        norm = whole(torch.nn.utils.clip_grad_norm_(self._parameters, self._config.optimizer.grad_clip))
        summed = self._passes.gang.sum(torch.stack(list(figures.values())))
        named = dict(zip(figures, summed.tolist(), strict=True))
        named |= {"grad_norm": float(norm), "useful_share": used / computed}
        finite = bool(torch.isfinite(norm)) and bool(torch.isfinite(summed[list(figures).index("loss")]))
        # Without a token that teaches something, momentum and weight decay alone would move the weights.
        if finite and bool(share.any()):
            self._optimizer.step()
            settled(self._passes.policy)
        self._optimizer.zero_grad(set_to_none=True)
        return named, finite

    @property
    def _parameters(self) -> list[Tensor]:
        return [value for group in self._optimizer.param_groups for value in group["params"]]

    def _shares(self, fixed: Fixed, rows: Tensor) -> Tensor:
        """Each token's share [N] of the minibatch's mean; 0 for tokens outside it or not chosen."""
        wanted = torch.isin(fixed.row, rows.to(fixed.row.device)) & fixed.chosen
        share = torch.zeros_like(fixed.old_logprobs)
        loss = self._rule.loss
        share[wanted] = shares(fixed.trajectory[wanted], fixed.group[wanted], loss.aggregation, loss.length)
        return share

    def _accumulate(self, micro: MicroBatch, fixed: Fixed, share: Tensor, record: bool) -> dict[str, Tensor]:
        """Forward and backward of one micro-batch; `record` its log-probs as the old ones."""
        passes, tokens = self._passes, micro.tokens
        original = fixed.original
        with computing(passes.policy, passes.gang, passes.dtype):
            terms = passes.policy.terms(micro, original.reference(micro) if original else None)
        if record:
            old = terms.logprobs.detach()
            fixed.old_logprobs[tokens] = old
            behaviour, trajectory = fixed.behaviour[tokens], fixed.trajectory[tokens]
            fixed.weights[tokens] = self._rule.corrector.weights(old, behaviour, trajectory)
        result: LossResult = self._rule.loss.compute(
            LossTokens(
                logprobs=terms.logprobs,
                entropy=terms.entropy,
                old_logprobs=fixed.old_logprobs[tokens],
                advantages=fixed.advantages[tokens],
                weights=fixed.weights[tokens],
                share=share[tokens],
                row=torch.unique(fixed.row[tokens], return_inverse=True)[1],
                trajectory=fixed.trajectory[tokens],
                reference=original.logprobs[tokens] if original and original.logprobs is not None else None,
                divergence=terms.divergence,
            )
        )
        # FSDP2 takes the mean of the processes' gradients, and shares are of the sum.
        (result.loss * passes.gang.size).backward()  # type: ignore[no-untyped-call]
        return {"loss": result.loss.detach(), **result.figures}
