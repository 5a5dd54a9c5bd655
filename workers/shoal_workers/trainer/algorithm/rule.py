"""The learning rule of a job: one strategy of each part."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.api.services.roles.trainer import AlgorithmConfig
from shoal_workers.trainer.algorithm.advantages import ADVANTAGES, AdvantageEstimator
from shoal_workers.trainer.algorithm.correctors import CORRECTORS, OffPolicyCorrector
from shoal_workers.trainer.algorithm.losses import LOSSES, Loss
from shoal_workers.trainer.algorithm.selectors import SELECTORS, StepSelector


@dataclass(frozen=True, slots=True)
class LearningRule:
    """What turns a batch into a gradient."""

    advantage: AdvantageEstimator
    corrector: OffPolicyCorrector
    loss: Loss
    selector: StepSelector


def learning_rule(config: AlgorithmConfig) -> LearningRule:
    """The configured strategies; raises ConfigurationError naming the wrong field."""
    return LearningRule(
        advantage=ADVANTAGES.build(config.advantage),
        corrector=CORRECTORS.build(config.corrector),
        loss=LOSSES.build(config.loss),
        selector=SELECTORS.build(config.selection),
    )
