"""The learning rule, by parts: each part is a small interface with named strategies, chosen in the manifest."""

from shoal_workers.trainer.algorithm.advantages import AdvantageEstimator
from shoal_workers.trainer.algorithm.correctors import OffPolicyCorrector
from shoal_workers.trainer.algorithm.losses import Loss, LossResult, LossTokens
from shoal_workers.trainer.algorithm.rule import LearningRule, learning_rule
from shoal_workers.trainer.algorithm.selectors import StepSelector

__all__ = [
    "AdvantageEstimator",
    "LearningRule",
    "Loss",
    "LossResult",
    "LossTokens",
    "OffPolicyCorrector",
    "StepSelector",
    "learning_rule",
]
