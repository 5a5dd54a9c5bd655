"""The learner: weights and optimizer, and one step of the learning rule on a batch."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shoal.api.services.roles.trainer import TrainerConfig
from shoal.api.services.trajectories import TrainGroup
from shoal_workers.trainer.algorithm import LearningRule, LossTokens
from shoal_workers.trainer.algorithm.losses import entropies, shares
from shoal_workers.trainer.batching import TrainRows, make_rows
from shoal_workers.trainer.figures import logprob_gap, summary
from shoal_workers.trainer.schedule import learning_rate
from shoal_workers.trainer.scoring import distribution, micro_batches, picked

if TYPE_CHECKING:
    from transformers import PreTrainedModel

State = dict[str, Tensor]


class NonFiniteError(RuntimeError):
    """A loss or a gradient is not a number any more; training on would destroy the policy."""


@dataclass(frozen=True, slots=True)
class _Fixed:
    """What is constant during a step: N sampled tokens in the batch's order; row i has tokens starts[i]:starts[i+1]."""

    old_logprobs: Tensor
    weights: Tensor
    advantages: Tensor
    chosen: Tensor
    trajectory: Tensor
    reference: Tensor | None
    starts: Tensor

    def tokens_of(self, rows: Tensor) -> Tensor:
        """Indices of the tokens of `rows`, row by row."""
        return torch.cat([torch.arange(int(self.starts[row]), int(self.starts[row + 1])) for row in rows])


class Learner:
    """Trains a causal language model; not thread-safe.

    `verify_versions` of the newest weights are kept in memory, so that log-probs of tokens that a version sampled can
    be compared with what the engine said, also when the trainer has moved on. `reference` are the weights that the loss
    keeps the policy near, at first those of `model` as it was given; None where the loss has no such term.
    """

    def __init__(self, model: PreTrainedModel, rule: LearningRule, config: TrainerConfig) -> None:
        self.model = model
        self._rule = rule
        self._config = config
        optimizer = config.optimizer
        self._optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=optimizer.learning_rate,
            betas=(optimizer.beta1, optimizer.beta2),
            weight_decay=optimizer.weight_decay,
        )
        self._generator = torch.Generator().manual_seed(config.seed)
        self.reference = self._snapshot() if rule.loss.reference != "none" else None
        self._known: OrderedDict[int, State] = OrderedDict()

    def remember(self, version: int) -> None:
        """The weights as they are now are `version`."""
        if self._config.verify_versions:
            self._known[version] = self._snapshot()
            while len(self._known) > self._config.verify_versions:
                self._known.popitem(last=False)

    def train(self, groups: Sequence[TrainGroup], step: int, version: int) -> dict[str, float]:
        """One step (from 0) by the groups, starting from the weights `version`; the step's figures.

        Groups without a sampled token that can be trained on leave weights and optimizer as they are. Raises
        NonFiniteError, the weights then being of no use.
        """
        batch = make_rows(groups, self._rule.advantage, self._config.max_model_len)
        rate = learning_rate(self._config.optimizer, step, self._config.steps)
        learned = self._learn(groups, batch, version, rate) if batch.rows else _nothing(groups, batch, version)
        return {**learned, "learning_rate": rate}

    def _learn(self, groups: Sequence[TrainGroup], batch: TrainRows, version: int, rate: float) -> dict[str, float]:
        """Updates at `rate` by a batch of at least one row."""
        fixed = self._before(batch)
        figures = summary(groups, batch, fixed.weights, version)
        scored = {version: fixed.old_logprobs}
        figures |= logprob_gap(self.model, batch, self._known, scored, self._size, self._config.temperature)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        figures |= self._optimize(batch, fixed)
        return {**figures, "tokens_trained": float(fixed.chosen.sum())}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold to go on exactly here."""
        return {
            "model": self._snapshot(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`; raises KeyError or RuntimeError where it is of another model."""
        self.model.load_state_dict(state["model"])
        # A copy, because the optimizer goes on in the very tensors that it is given.
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self._generator.set_state(state["generator"])

    @property
    def _size(self) -> int:
        return self._config.micro_batch_rows

    def _snapshot(self) -> State:
        # Tied weights must stay one tensor: two copies would be two different values of one parameter.
        copies: dict[int, Tensor] = {}
        snapshot: State = {}
        for name, value in self.model.state_dict().items():
            if value.data_ptr() not in copies:
                copies[value.data_ptr()] = value.detach().to("cpu", copy=True)
            snapshot[name] = copies[value.data_ptr()]
        return snapshot

    def _distribution(self, batch: TrainRows, rows: Tensor, state: State | None = None) -> tuple[Tensor, Tensor]:
        """See `distribution`: of the model, or of the weights `state`, at the temperature of the batches."""
        return distribution(self.model, batch, rows, self._config.temperature, state)

    @torch.no_grad()
    def _before(self, batch: TrainRows) -> _Fixed:
        """Log-probs, weights and choice of tokens under the weights at the start of the step."""
        logprobs, entropy, reference = [], [], []
        for rows in micro_batches(torch.arange(batch.rows), self._size):
            log_distribution, tokens = self._distribution(batch, rows)
            logprobs.append(picked(log_distribution, tokens))
            entropy.append(entropies(log_distribution))
            if self.reference is not None:
                wanted, _ = self._distribution(batch, rows, self.reference)
                reference.append(wanted if self._rule.loss.reference == "full" else picked(wanted, tokens))
        old = torch.cat(logprobs)
        device = old.device
        trajectory = batch.of_tokens(batch.trajectory).to(device)
        turn = batch.turn[batch.sampled].to(device)
        behaviour = batch.behaviour[batch.sampled].to(device)
        counts = batch.sampled.sum(1)
        return _Fixed(
            old_logprobs=old,
            weights=self._rule.corrector.weights(old, behaviour, trajectory),
            advantages=batch.of_tokens(batch.advantages).to(device),
            chosen=self._rule.selector.select(torch.cat(entropy), turn),
            trajectory=trajectory,
            reference=torch.cat(reference) if reference else None,
            starts=torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]),
        )

    def _optimize(self, batch: TrainRows, fixed: _Fixed) -> dict[str, float]:
        """All epochs and minibatches; figures are means over them."""
        total: dict[str, float] = {}
        updates = 0
        for _ in range(self._config.epochs):
            order = torch.randperm(batch.rows, generator=self._generator)
            for minibatch in torch.tensor_split(order, min(self._config.minibatches, batch.rows)):
                for name, value in self._update(batch, fixed, minibatch).items():
                    total[name] = total.get(name, 0.0) + value
                updates += 1
        return {name: value / updates for name, value in total.items()}

    def _update(self, batch: TrainRows, fixed: _Fixed, minibatch: Tensor) -> dict[str, float]:
        """One optimizer step by the rows of a minibatch."""
        self._optimizer.zero_grad(set_to_none=True)
        # Rows of like length together: padding is computed for nothing.
        ordered = minibatch[torch.argsort(batch.lengths[minibatch])]
        share = self._shares(fixed, ordered)
        figures: dict[str, float] = {}
        for rows in micro_batches(ordered, self._size):
            part = self._accumulate(batch, fixed, rows, share)
            figures = {name: figures.get(name, 0.0) + value for name, value in part.items()}
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._config.optimizer.grad_clip)
        if not torch.isfinite(norm):
            raise NonFiniteError(f"the gradient's norm is {float(norm)}")
        self._optimizer.step()
        return {**figures, "grad_norm": float(norm)}

    def _shares(self, fixed: _Fixed, rows: Tensor) -> Tensor:
        """Each token's share [N] of the minibatch's mean; 0 for tokens outside it or not chosen."""
        tokens = fixed.tokens_of(rows)
        tokens = tokens[fixed.chosen[tokens].cpu()]
        share = torch.zeros_like(fixed.old_logprobs)
        share[tokens] = shares(fixed.trajectory[tokens], self._rule.loss.aggregation)
        return share

    def _accumulate(self, batch: TrainRows, fixed: _Fixed, rows: Tensor, share: Tensor) -> dict[str, float]:
        """Forward and backward of one micro-batch."""
        log_distribution, token_ids = self._distribution(batch, rows)
        tokens = fixed.tokens_of(rows).to(token_ids.device)
        result = self._rule.loss.compute(
            LossTokens(
                logprobs=picked(log_distribution, token_ids),
                log_distribution=log_distribution,
                old_logprobs=fixed.old_logprobs[tokens],
                advantages=fixed.advantages[tokens],
                weights=fixed.weights[tokens],
                share=share[tokens],
                reference=fixed.reference[tokens] if fixed.reference is not None else None,
            )
        )
        loss = float(result.loss.detach())
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise NonFiniteError(f"the loss is {loss}")
        result.loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss, **result.figures}


def _nothing(groups: Sequence[TrainGroup], batch: TrainRows, version: int) -> dict[str, float]:
    """The figures of a step that had nothing to learn from.

    The optimizer is not stepped either: its momentum and weight decay would change the weights without a gradient.
    """
    figures = summary(groups, batch, torch.zeros(0), version)
    return {**figures, "logprob_gap": 0.0, "logprob_checked": 0.0, "tokens_trained": 0.0}
