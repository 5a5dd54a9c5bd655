"""Runs the probes of one run of a container and tells of changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from shoal_embedded.node.failures import StartError
from shoal_embedded.node.probes import EAGER_SECONDS, ProbeTally, Target, ask

Json = dict[str, Any]


class Watch:
    """Probes one run: the startup probe to its end, then liveness and readiness side by side.

    Args:
        target: who is asked.
        on_started: called once the container counts as started.
        on_ready: called with each change of readiness and what is wrong.
        on_sick: called once, when the startup or liveness probe failed for good, with which and what is wrong.
    """

    def __init__(
        self,
        target: Target,
        on_started: Callable[[], None],
        on_ready: Callable[[bool, str], None],
        on_sick: Callable[[str, str], None],
    ) -> None:
        self._target = target
        self._on_started = on_started
        self._on_ready = on_ready
        self._on_sick = on_sick

    async def run(self, *, started: bool) -> None:
        """Probe until cancelled or the container is found sick. `started`: its startup is over (a run found again)."""
        container = self._target.container
        startup = container.probe("startup")
        if startup is not None and not started and not await self._until_started(startup):
            return
        self._on_started()
        readiness, liveness = container.probe("readiness"), container.probe("liveness")
        if readiness is None:
            self._on_ready(True, "")
        async with asyncio.TaskGroup() as group:
            if readiness is not None:
                group.create_task(self._readiness(readiness))
            if liveness is not None:
                group.create_task(self._liveness(liveness))

    async def _until_started(self, probe: Json) -> bool:
        tally = ProbeTally.of(probe)
        await asyncio.sleep(float(probe.get("initialDelaySeconds") or 0))
        while True:
            problem = await self._ask_eagerly(probe)
            verdict = tally.observe(not problem)
            if verdict is False:
                self._on_sick("Startup", problem)
            if verdict is not None:
                return verdict

    async def _readiness(self, probe: Json) -> None:
        tally = ProbeTally.of(probe)
        await asyncio.sleep(float(probe.get("initialDelaySeconds") or 0))
        problem = await self._ask(probe)
        while True:
            verdict = tally.observe(not problem)
            if verdict is not None:
                self._on_ready(verdict, problem)
            if tally.verdict:
                await asyncio.sleep(_period(probe))
                problem = await self._ask(probe)
            else:
                problem = await self._ask_eagerly(probe)

    async def _liveness(self, probe: Json) -> None:
        tally = ProbeTally.of(probe)
        await asyncio.sleep(float(probe.get("initialDelaySeconds") or 0))
        while True:
            problem = await self._ask(probe)
            if tally.observe(not problem) is False:
                self._on_sick("Liveness", problem)
                return
            await asyncio.sleep(_period(probe))

    async def _ask(self, probe: Json) -> str:
        try:
            return await ask(probe, self._target)
        except StartError as error:
            return str(error)

    async def _ask_eagerly(self, probe: Json) -> str:
        """Ask until a success or the end of one period; return the last problem."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _period(probe)
        while True:
            problem = await self._ask(probe)
            rest = end - loop.time()
            if not problem:
                return ""
            if rest <= 0:
                return problem
            await asyncio.sleep(min(EAGER_SECONDS, rest))


def _period(probe: Json) -> float:
    return float(probe.get("periodSeconds") or 10)
