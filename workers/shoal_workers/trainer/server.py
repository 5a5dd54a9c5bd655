"""The trainer's service: its status, and the driver that lives with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

from shoal.api.labels import Role
from shoal.api.services.roles.trainer import AlgorithmConfig, TrainerConfig
from shoal_workers.service import (
    ConfigurationError,
    Identity,
    Service,
    ServiceClient,
    credential,
)
from shoal_workers.service.config import write_termination_message
from shoal_workers.service.launch import INCURABLE, MISCONFIGURED
from shoal_workers.strategies.registry import check
from shoal_workers.trainer.cluster import RayLearner
from shoal_workers.trainer.driver import TrainerDriver
from shoal_workers.trainer.handle import LearnerHandle
from shoal_workers.trainer.peers import DataManager, Gateway

logger = logging.getLogger(__name__)


def build(config: TrainerConfig, identity: Identity) -> Service:
    """The trainer's service with a learner in Ray; raises ConfigurationError where it cannot work."""
    _check(config)
    return assemble(config, identity, RayLearner(config, identity.ip))


def assemble(config: TrainerConfig, identity: Identity, learner: LearnerHandle) -> Service:
    """The service around a learner. The process ends with status 1 when the driver fails: it starts again from the
    newest checkpoint.
    """
    data = ServiceClient(config.data_url, token=credential(Role.DATA))
    gateway = ServiceClient(config.gateway_url, token=credential(Role.GATEWAY))
    driver = TrainerDriver(config, learner, DataManager(data, identity.name), Gateway(gateway))
    service = Service("trainer", lambda: driver.status, token=credential())

    @contextlib.asynccontextmanager
    async def driving() -> AsyncIterator[None]:
        task = asyncio.create_task(_drive(driver, service, learner))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await learner.close()
            await data.close()
            await gateway.close()

    service.lives_with(driving)
    return service


async def _drive(driver: TrainerDriver, service: Service, learner: LearnerHandle) -> None:
    service.set_ready()
    try:
        await driver.run()
    except Exception as error:
        line = " ".join(f"trainer: {error}".split())
        logger.exception("training failed")
        write_termination_message(line)
        # Nothing here is worth an orderly end: the state is in the checkpoint.
        learner.abandon()
        stays = isinstance(error, ConfigurationError) or (isinstance(error, OSError) and error.errno in INCURABLE)
        os._exit(MISCONFIGURED if stays else 1)


def _check(config: TrainerConfig) -> None:
    """What can be known to fail before anything is started."""
    for part in AlgorithmConfig.model_fields:
        check(getattr(config.algorithm, part), f"shoal.trainer.{part}", f"algorithm.{part}")
    folder = Path(config.folder)
    try:
        for name in ("versions", "checkpoints"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError("folder", f"{folder} cannot be written: {error.strerror}") from None
    if config.model.startswith("/") and not Path(config.model, "config.json").is_file():
        raise ConfigurationError("model", f"{config.model} has no config.json; it must be a Hugging Face model folder")
