"""The learner: weights and optimizer, and one step of the learning rule on a batch."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shoal.api.services.roles.trainer import TrainerConfig
from shoal.api.services.trajectories import Batch, TrainGroup
from shoal_workers.tokens.arrays import TokenArrays, from_batch
from shoal_workers.trainer import state
from shoal_workers.trainer.algorithm import LearningRule
from shoal_workers.trainer.batching import TrainRows, make_rows
from shoal_workers.trainer.figures import gap_bound, logprob_gap, mismatch, summary
from shoal_workers.trainer.gang import Gang, alone
from shoal_workers.trainer.memory import fitting_tokens
from shoal_workers.trainer.model import compute_type
from shoal_workers.trainer.policy import Policy
from shoal_workers.trainer.schedule import learning_rate
from shoal_workers.trainer.scoring import Passes, hidden, score
from shoal_workers.trainer.sharding import Snapshot, prepare, snapshot, swapped, whole
from shoal_workers.trainer.update import Fixed, Original, Updates
from shoal_workers.trainer.vocabulary import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Learner:
    """Trains a causal language model; not thread-safe.

    Weights, moments and updates are float32; passes compute in the configured type. `verify_versions` of the newest
    weights are kept in memory, so that log-probs of tokens that a version sampled can be compared with what the engine
    said, also when the trainer has moved on. `reference` are the weights that the loss keeps the policy near, at first
    those of `model` as it was given; None where the loss has no such term.
    """

    def __init__(
        self, model: PreTrainedModel, rule: LearningRule, config: TrainerConfig, gang: Gang | None = None
    ) -> None:
        gang = gang or alone()
        dtype = compute_type(config)
        placed: Any = model
        self.model: PreTrainedModel = placed.to(gang.device, torch.float32)
        policy = Policy(self.model, config.temperature)
        prepare(policy, gang, dtype)
        self._rule = rule
        self._config = config
        self._passes = fitted(Passes(policy, gang, dtype, 0, config.micro_batch_rows), config)
        self._optimizer = optimizer_of(self.model, config)
        self._updates = Updates(self._passes, rule, config, self._optimizer)
        self.reference = snapshot(policy, torch.float32) if rule.loss.reference != "none" else None
        self._known: OrderedDict[int, Snapshot] = OrderedDict()

    @property
    def tokens_at_once(self) -> int:
        """Tokens of a micro-batch, at most."""
        return self._passes.budget

    @property
    def checkpointing(self) -> bool:
        """Whether layers are computed again backward."""
        return self._passes.policy.checkpointing

    def remember(self, version: int) -> None:
        """The weights as they are now are `version`."""
        if self._config.verify_versions:
            self._known[version] = snapshot(self._passes.policy, self._passes.dtype)
            while len(self._known) > self._config.verify_versions:
                self._known.popitem(last=False)

    def train(self, groups: TokenArrays | Sequence[TrainGroup], step: int, version: int) -> dict[str, float]:
        """One step (from 0) by the batch, starting from the weights `version`; the step's figures.

        A batch without a token that teaches something leaves weights and optimizer as they are, and so does an update
        whose loss or gradient is not finite: `updates_skipped` counts those. Figures that are not finite are left out.
        """
        arrays = groups if isinstance(groups, TokenArrays) else from_batch(Batch(id="", groups=groups, expires_at=0))
        batch = make_rows(arrays, self._rule.advantage, self._config.max_model_len)
        rate = learning_rate(self._config.optimizer, step, self._config.steps)
        learned = self._learn(arrays, batch, version, rate) if batch.rows else _nothing(arrays, batch, version)
        return {name: value for name, value in learned.items() if math.isfinite(value)} | {"learning_rate": rate}

    def _learn(self, arrays: TokenArrays, batch: TrainRows, version: int, rate: float) -> dict[str, float]:
        """Updates at `rate` by a batch of at least one row."""
        fixed = self._before(batch)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        figures = self._updates.run(batch, fixed, self._at_once)
        figures |= summary(arrays, batch, fixed.weights, version) | mismatch(batch, fixed.old_logprobs)
        figures |= logprob_gap(self._passes, batch, self._known, {version: fixed.old_logprobs})
        bound = gap_bound(self._passes.dtype, self._config.top_p)
        return {**figures, "logprob_gap_bound": bound, "tokens_trained": float(fixed.chosen.sum())}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold to go on exactly here: whole, on the CPU, whatever the number of processes."""
        return state.of(self.model, self._optimizer) | {"generator": self._updates.generator.get_state()}

    def load(self, saved: dict[str, Any]) -> None:
        """Go on from `saved`; raises ValueError where it is of another model."""
        state.load(self.model, self._optimizer, saved)
        self._updates.generator.set_state(saved["generator"])

    def weights(self) -> dict[str, Tensor]:
        """All weights, whole, on the CPU, in the type that passes compute in: what is published."""
        return state.weights(self.model, self._passes.dtype)

    @torch.no_grad()
    def _before(self, batch: TrainRows) -> Fixed:
        """What is known of the tokens before the first update."""
        size, device = int(batch.sampled.sum()), self._passes.gang.device
        fixed = Fixed(
            old_logprobs=torch.zeros(size, device=device),
            weights=torch.zeros(size, device=device),
            advantages=batch.of_tokens(batch.advantages).to(device),
            behaviour=batch.behaviour[batch.sampled].to(device),
            chosen=torch.ones(size, dtype=torch.bool, device=device),
            trajectory=batch.of_tokens(batch.trajectory).to(device),
            group=batch.of_tokens(batch.group).to(device),
            row=batch.of_tokens(torch.arange(batch.rows)).to(device),
            original=self._original(batch),
        )
        if not self._at_once:
            scores = score(self._passes, batch)
            turn = batch.turn[batch.sampled].to(device)
            fixed.old_logprobs.copy_(scores.logprobs)
            fixed.weights.copy_(self._rule.corrector.weights(scores.logprobs, fixed.behaviour, fixed.trajectory))
            fixed.chosen.copy_(self._rule.selector.select(scores.entropy, turn, fixed.advantages))
        if not self._rule.loss.learns_without_advantage:
            # A group of equal rewards says nothing. Left in, its tokens have the gradient of the KL term alone, which
            # Adam makes steps of nearly full size of: what a policy has mastered would drift.
            fixed.chosen.logical_and_(fixed.advantages != 0)
        return fixed

    @property
    def _at_once(self) -> bool:
        """Whether the only update of a step may compute the old log-probs itself: its own are the same numbers."""
        single = self._config.epochs * self._config.minibatches == 1
        return single and self._rule.corrector.local and self._rule.selector.everything

    def _original(self, batch: TrainRows) -> Original | None:
        """What the loss asks for of the original weights."""
        kind = self._rule.loss.reference
        if self.reference is None or kind == "none":
            return None
        with swapped(self._passes.policy, self.reference):
            if kind == "sampled":
                return Original(score(self._passes, batch).logprobs)
            head = self._passes.policy.head()
            weight = whole(head.weight).to(self._passes.dtype, copy=True)
            bias = None if head.bias is None else whole(head.bias).to(self._passes.dtype, copy=True)
            return Original(None, hidden(self._passes, batch), Head(weight, bias, head.scale, head.cap))


def fitted(passes: Passes, config: TrainerConfig) -> Passes:
    """The passes with as many tokens at once as the configuration says, or as fit; layers are checkpointed where it
    says so, or, where it leaves that open, where the longest sequence would not fit otherwise.
    """
    passes.policy.checkpointing = bool(config.activation_checkpointing)
    budget = config.tokens_per_micro_batch or fitting_tokens(passes, config.max_model_len)
    if budget < config.max_model_len and config.activation_checkpointing is None:
        passes.policy.checkpointing = True
        budget = config.tokens_per_micro_batch or fitting_tokens(passes, config.max_model_len)
    passes.policy.zero_grad(set_to_none=True)
    return replace(passes, budget=budget)


def optimizer_of(model: PreTrainedModel, config: TrainerConfig) -> torch.optim.Optimizer:
    """AdamW over the weights that are trained."""
    optimizer = config.optimizer
    trained = [value for value in model.parameters() if value.requires_grad]
    return torch.optim.AdamW(
        trained,
        lr=optimizer.learning_rate,
        betas=(optimizer.beta1, optimizer.beta2),
        weight_decay=optimizer.weight_decay,
        fused=trained[0].device.type == "cuda",
    )


def _nothing(arrays: TokenArrays, batch: TrainRows, version: int) -> dict[str, float]:
    """The figures of a step that had nothing to learn from.

    The optimizer is not stepped either: its momentum and weight decay would change the weights without a gradient.
    """
    figures = summary(arrays, batch, torch.zeros(0), version)
    return {**figures, "logprob_gap": 0.0, "logprob_checked": 0.0, "tokens_trained": 0.0}
