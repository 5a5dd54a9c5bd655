"""What runs beside the weights: the learner, its checkpoints and its publications; one process of the training gang."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from shoal.api.services.models import WeightsTarget
from shoal.api.services.roles.trainer import TrainerConfig
from shoal.api.services.trajectories import Batch
from shoal_workers.configuration import ConfigurationError
from shoal_workers.tokens.arrays import decode, from_batch
from shoal_workers.trainer import checkpoint, publish
from shoal_workers.trainer.algorithm import learning_rule
from shoal_workers.trainer.learner import Learner
from shoal_workers.trainer.model import load_model
from shoal_workers.trainer.progress import Progress


class LearnerWorker:
    """The learner of one job, driven by one caller at a time.

    Everything that crosses is plain data, so that it may run in another process or on another machine; the folder must
    be the same shared volume there.
    """

    def __init__(self, config: TrainerConfig) -> None:
        torch.set_num_threads(config.learner_threads)
        torch.manual_seed(config.seed)
        self._config = config
        self._learner = Learner(load_model(config.model, config.dtype), learning_rule(config.algorithm), config)
        self._original = self._learner.state()
        if self._learner.reference is not None:
            self._learner.reference = checkpoint.keep_reference(self._checkpoints, self._learner.reference)
        self._companions = publish.companions_of(config.model)

    def restore(self) -> Progress:
        """Go back to the newest checkpoint, or to the original weights where there is none.

        Raises ConfigurationError where checkpoints are there and none is of use: to begin anew would lose what they
        hold.
        """
        try:
            found = checkpoint.newest(self._checkpoints)
            progress, state = found or (Progress(), self._original)
            self._learner.load(state)
        except ValueError as error:
            cause = f"{self._checkpoints} is of no use with {self._config.model}: {error}"
            raise ConfigurationError("folder", cause) from None
        self._learner.remember(progress.version)
        return progress

    def train(self, batch: bytes, step: int, version: int) -> dict[str, float]:
        """Learn from a batch as step number `step`, from 0; the weights become `version` + 1.

        The batch is token arrays, or JSON as a data manager of an earlier release writes it.
        """
        arrays = from_batch(Batch.model_validate_json(batch)) if batch.startswith(b"{") else decode(batch)
        figures = self._learner.train(arrays, step, version)
        self._learner.remember(version + 1)
        return figures

    def renumber(self, version: int) -> None:
        """From now on the weights, unchanged, are called `version`."""
        self._learner.remember(version)

    def save(self, progress: Progress) -> None:
        """Write a checkpoint of the weights as they are."""
        checkpoint.save(self._checkpoints, progress, self._learner.state(), self._config.checkpoint_keep)

    def publish(self, version: int, step: int, in_use: Collection[int] | None) -> WeightsTarget:
        """Write the weights as they are to the shared volume as `version`; remove old ones that are not `in_use` (None:
        not known, so none are removed).
        """
        run = self._config.run
        published = publish.publish(
            self._versions, self._learner.model, self._learner.weights(), self._companions, version, step, run
        )
        publish.prune(self._versions, self._config.versions_keep, in_use)
        return published

    def latest(self) -> WeightsTarget | None:
        """The newest published version."""
        return publish.latest(self._versions, self._config.run)

    @property
    def _checkpoints(self) -> Path:
        return Path(self._config.folder, "checkpoints")

    @property
    def _versions(self) -> Path:
        return Path(self._config.folder, "versions")
