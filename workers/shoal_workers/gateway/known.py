"""One engine as the gateway knows it, and what is under way there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from shoal.api.services.models import EngineReport
from shoal_workers.gateway import rollout
from shoal_workers.service import ProblemError, ServiceClient


@dataclass(slots=True)
class Known:
    """An engine's last report, when it came (by the registry's clock), and how the gateway sees the engine.

    `suspect`: a call failed since the last report. `lost`: it has been silent for too long. `draining`: it shall get no
    more requests.
    """

    report: EngineReport
    seen: float
    member: rollout.Member
    client: ServiceClient
    generate_url: str
    draining: bool = False
    suspect: bool = False
    lost: bool = False
    loading: int | None = None
    """The version that it was told to load and has not answered for."""
    detail: str = ""
    tasks: set[asyncio.Task[object]] = field(default_factory=set)
    given_up: set[asyncio.Task[object]] = field(default_factory=set)
    """Tasks that `lose` cancelled: a report may come, and `lost` be over, before they run."""

    def lose(self) -> None:
        """Give the engine up: whatever waits for its answer fails now.

        A machine that vanishes closes no connection, so a call to it would wait for its whole timeout.
        """
        self.lost = True
        for task in self.tasks - self.given_up:
            self.given_up.add(task)
            task.cancel()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Wait for this engine inside the block: ProblemError `engine-lost` is raised there once it is given up."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task not in self.given_up or task.uncancel() > 0:
                raise
            raise ProblemError("engine-lost", f"{self.report.name} fell silent", status=503) from None
        finally:
            self.tasks.discard(task)
            self.given_up.discard(task)
