"""The learning rate over a job."""

from __future__ import annotations

from shoal.api.services.roles.trainer import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`: it rises over `warmup_steps`, then falls to `decay_to`, linearly."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    span = max(1, steps - 1 - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / span)
    return config.learning_rate * (1.0 - (1.0 - config.decay_to) * progress)
