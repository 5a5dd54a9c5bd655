"""The learner in a Ray actor: on a Ray head of the trainer's own, or on a cluster that the job names."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from shoal.api.services.models import WeightsTarget
from shoal.api.services.roles.trainer import TrainerConfig
from shoal_workers.configuration import ConfigurationError
from shoal_workers.trainer import strays
from shoal_workers.trainer.progress import Progress

_MEGABYTE = 1 << 20


class RayLearner:
    """A learner in a Ray actor.

    The head of one's own dies with this process, however that dies: Ray's processes are bound to their parent by the
    kernel. An actor that dies is not restarted in place: its memory is the state, so the trainer's process ends and
    starts again from the checkpoint.
    """

    def __init__(self, config: TrainerConfig, host: str) -> None:
        self._config = config
        self._host = host
        self._actor: Any = None

    async def start(self) -> None:
        """Start or join Ray and load the model; raises ConfigurationError where either cannot be."""
        import ray

        self._sweep()
        strays.mark(self._session.name)
        try:
            with _signals_kept():
                await asyncio.to_thread(ray.init, **self._options())
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigurationError("ray_address", f"no Ray cluster: {error}") from None
        self._actor = ray.remote(num_cpus=self._config.learner_threads, max_restarts=0)(_Actor).remote()
        if wrong := await self._actor.start.remote(self._config):
            raise ConfigurationError(*wrong)

    async def restore(self) -> Progress:
        """See LearnerWorker."""
        progress: Progress = await self._call("restore")
        return progress

    async def train(self, batch: bytes, step: int, version: int) -> dict[str, float]:
        """See LearnerWorker."""
        figures: dict[str, float] = await self._call("train", batch, step, version)
        return figures

    async def renumber(self, version: int) -> None:
        """See LearnerWorker."""
        await self._call("renumber", version)

    async def save(self, progress: Progress) -> None:
        """See LearnerWorker."""
        await self._call("save", progress)

    async def publish(self, version: int, step: int, in_use: Collection[int] | None) -> WeightsTarget:
        """See LearnerWorker."""
        target: WeightsTarget = await self._call("publish", version, step, in_use)
        return target

    async def latest(self) -> WeightsTarget | None:
        """See LearnerWorker."""
        target: WeightsTarget | None = await self._call("latest")
        return target

    async def close(self) -> None:
        """Kill the actor, and with it the head where it is one's own."""
        import ray

        ray.shutdown()
        self._sweep()

    def abandon(self) -> None:
        """As `close`, at once and without asking Ray, which may be what is broken."""
        self._sweep()

    @property
    def _session(self) -> Path:
        return session_folder(self._config.folder)

    def _sweep(self) -> None:
        """Remove what this or an earlier process of the job left of a head of its own."""
        if not self._config.ray_address:
            strays.sweep(self._session.name)
            shutil.rmtree(self._session, ignore_errors=True)

    async def _call(self, name: str, *arguments: Any) -> Any:
        from ray.exceptions import RayTaskError

        try:
            return await self._actor.call.remote(name, arguments)
        except RayTaskError as error:
            # What the driver acts on, without the other process's stack in its message.
            if isinstance(error.cause, ConfigurationError | OSError):
                raise error.cause from None
            raise

    def _options(self) -> dict[str, Any]:
        common: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "include_dashboard": False}
        if self._config.ray_address:
            return {"log_to_driver": False, "configure_logging": False, "address": self._config.ray_address}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        return common | {
            "num_cpus": self._config.learner_threads,
            "object_store_memory": self._config.object_store_megabytes * _MEGABYTE,
            "_node_ip_address": self._host,
            "_temp_dir": str(self._session),
        }


def session_folder(folder: str) -> Path:
    """The folder for Ray's sockets and logs, one for each job.

    Socket paths may have 107 bytes, so it lies in the system's temporary folder under a short name.
    """
    digest = hashlib.sha256(folder.encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir(), f"shoal-ray-{digest}")


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Give SIGTERM and SIGINT back to whoever handles them: Ray takes both, and then a graceful stop aborts."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


class _Actor:
    """A LearnerWorker that is imported where it runs: this process has no need of torch."""

    def __init__(self) -> None:
        self._worker: Any = None

    def start(self, config: TrainerConfig) -> tuple[str, str] | None:
        """Load the model; the wrong field and why, where it cannot be (not every exception crosses processes)."""
        from shoal_workers.trainer.worker import LearnerWorker

        try:
            self._worker = LearnerWorker(config)
        except ConfigurationError as error:
            return error.field, error.cause
        return None

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Call a method of the worker."""
        return getattr(self._worker, name)(*arguments)
