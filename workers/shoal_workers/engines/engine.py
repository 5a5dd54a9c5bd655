"""An engine: a core driven by its own thread, seen from asyncio."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from time import monotonic, perf_counter
from typing import TypeVar

from shoal.api.services.models import (
    EnginePhase,
    EngineStatus,
    GenerateRequest,
    GenerateResult,
    InFlightPolicy,
    WeightsLoaded,
    WeightsTarget,
    WeightsUpdate,
)
from shoal_workers.engines.core import Call, Core, CoreError, Finished, PromptError
from shoal_workers.engines.driver import Driver
from shoal_workers.engines.probe import Probe, ProbeError
from shoal_workers.engines.weights import WeightsError, check_weights
from shoal_workers.service import ProblemError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Engine:
    """Serves generations and loads weights in place.

    `name` is reported with every result. `on_failure` is called once, on the event loop, with the reason when the core
    is lost; no call succeeds after that. `changed` is set whenever the status should be reported at once.
    """

    def __init__(
        self,
        name: str,
        core: Core,
        probe: Probe | None = None,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.name = name
        self.changed = asyncio.Event()
        self._driver = Driver(core, self._deliver, self._lost)
        self._core = core
        self._probe = probe or Probe()
        self._on_failure = on_failure
        self._phase = EnginePhase.STARTING
        self._detail = ""
        self._keys = itertools.count()
        self._calls: dict[str, tuple[str, asyncio.Future[Finished]]] = {}
        self._open = asyncio.Event()
        self._loading = asyncio.Lock()
        self._weights: WeightsTarget | None = None
        self._generated = 0
        self._requests = 0
        self._started = monotonic()

    @property
    def phase(self) -> EnginePhase:
        """Life of the engine."""
        return self._phase

    @property
    def alive(self) -> bool:
        """False when the core is lost or its thread has hung in one step for too long."""
        return self._phase is not EnginePhase.FAILED and not self._driver.hung

    async def start(self) -> None:
        """Load the model and prove by a sampled call that it works; raises CoreError."""
        self._started = monotonic()
        await asyncio.wrap_future(self._driver.start())
        self._open.set()
        try:
            await self._verify(self._core.version)
        except (ProbeError, ProblemError) as error:
            raise CoreError(f"the model starts but a sampled call fails: {error}") from None
        self._set_phase(EnginePhase.READY)

    async def generate(self, request: GenerateRequest) -> GenerateResult:
        """Tokens for a prompt; a request that is aborted gives what was generated. Raises ProblemError."""
        self._refuse_when_unfit()
        if not self._open.is_set():
            await self._open.wait()
            self._refuse_when_unfit()
        if request.min_version is not None and self._driver.version < request.min_version:
            detail = f"{self.name} has weight version {self._driver.version}, asked for at least {request.min_version}"
            raise ProblemError("stale-weights", detail, status=409)
        self._requests += 1
        finished = await self._call(request.request_id, request)
        return GenerateResult.model_construct(
            token_ids=finished.tokens,
            logprobs=finished.logprobs,
            versions=finished.spans,
            finish_reason=finished.reason,
            engine=self.name,
        )

    async def abort(self, request_ids: list[str] | None = None) -> int:
        """End requests, or all of them; their callers get what was generated. Gives how many were ended."""
        wanted = None if request_ids is None else set(request_ids)
        keys = [key for key, (name, _) in self._calls.items() if wanted is None or name in wanted]
        if keys:
            await self._run(lambda: self._driver.hand_over(self._core.abort(keys)))
        return len(keys)

    async def load_weights(self, update: WeightsUpdate) -> WeightsLoaded:
        """Serve another version from now on; raises ProblemError, `weights-unusable` where nothing was changed."""
        async with self._loading:
            self._refuse_when_unfit()
            begin = perf_counter()
            try:
                folder = await asyncio.to_thread(check_weights, update)
            except WeightsError as error:
                raise ProblemError("weights-unusable", str(error), status=422) from None
            self._set_phase(EnginePhase.UPDATING)
            try:
                await self._replace(folder, update)
                difference = await self._verify(update.version)
            except Exception as failure:
                # Half-loaded weights must never serve: the process ends and a fresh one takes its place.
                self._lost(failure)
                raise ProblemError("weights-failed", str(failure), status=500) from None
            finally:
                self._open.set()
            self._weights = WeightsTarget(
                version=update.version, path=update.path, checksum=update.checksum, run=update.run
            )
            self._set_phase(EnginePhase.READY)
            seconds = perf_counter() - begin
            logger.info("weights loaded", extra={"version": update.version, "seconds": round(seconds, 4)})
            return WeightsLoaded(version=self._driver.version, seconds=seconds, probe_error=difference)

    def status(self) -> EngineStatus:
        """The engine's own view now."""
        load = self._driver.load
        return EngineStatus(
            name=self.name,
            phase=self._phase,
            weight_version=self._driver.version,
            weights=self._weights,
            running=load.running,
            waiting=max(0, len(self._calls) - load.running),
            kv_use=load.kv_use,
            busy_seconds=self._driver.busy_seconds,
            uptime_seconds=monotonic() - self._started,
            generated_tokens=self._generated,
            requests=self._requests,
            detail=self._detail,
        )

    async def drain(self) -> None:
        """Take no more requests and end those there are; their callers continue them on another engine."""
        if self._phase is not EnginePhase.FAILED:
            self._set_phase(EnginePhase.DRAINING, "stopping")
            self._open.set()
            await self.abort()

    async def close(self) -> None:
        """Stop the core's thread."""
        await asyncio.to_thread(self._driver.stop)

    async def _replace(self, folder: Path, update: WeightsUpdate) -> None:
        if update.in_flight is not InFlightPolicy.KEEP_AND_CONTINUE:
            self._open.clear()
            if update.in_flight is InFlightPolicy.DRAIN and self._calls:
                waiting = [future for _, future in self._calls.values()]
                await asyncio.wait(waiting, timeout=update.drain_seconds)
            await self.abort()
        await self._run(lambda: self._driver.replace_weights(folder, update.version))

    async def _verify(self, version: int) -> float | None:
        """Sample from the weights now loaded and compare with the same tokens scored as a prompt."""
        finished = await self._call("", self._probe.request())
        scores = await self._run(lambda: self._core.score([*self._probe.prompt, *finished.tokens]))
        return self._probe.judge(finished, scores, version)

    async def _call(self, name: str, request: GenerateRequest) -> Finished:
        loop = asyncio.get_running_loop()
        key = str(next(self._keys))
        future: asyncio.Future[Finished] = loop.create_future()
        self._calls[key] = (name, future)
        try:
            self._driver.add(Call(key, request.prompt_token_ids, request.sampling))
            return await future
        except asyncio.CancelledError:
            # The caller hung up: nobody wants the rest.
            self._driver.submit(lambda: self._core.abort([key]))
            raise
        finally:
            self._calls.pop(key, None)

    async def _run(self, work: Callable[[], T]) -> T:
        outcome: Future[T] = self._driver.submit(work)
        return await asyncio.wrap_future(outcome)

    def _deliver(self, results: list[tuple[str, Finished | Exception]]) -> None:
        for key, result in results:
            entry = self._calls.get(key)
            if entry is None or entry[1].done():
                continue
            if isinstance(result, PromptError):
                entry[1].set_exception(ProblemError("invalid-prompt", str(result), status=422))
            elif isinstance(result, Exception):
                entry[1].set_exception(result)
            else:
                self._generated += len(result.tokens)
                entry[1].set_result(result)

    def _lost(self, error: BaseException) -> None:
        if self._phase is EnginePhase.FAILED:
            return
        starting = self._phase is EnginePhase.STARTING
        reason = f"{type(error).__name__}: {error}"
        self._set_phase(EnginePhase.FAILED, reason)
        self._open.set()
        for _, future in list(self._calls.values()):
            if not future.done():
                future.set_exception(_dead(self.name, reason))
        if self._on_failure is not None and not starting:
            self._on_failure(error)

    def _refuse_when_unfit(self) -> None:
        if self._phase is EnginePhase.FAILED:
            raise _dead(self.name, self._detail)
        if self._phase in (EnginePhase.STARTING, EnginePhase.DRAINING):
            raise ProblemError("engine-not-ready", f"{self.name} is {self._phase.value.lower()}", status=503)

    def _set_phase(self, phase: EnginePhase, detail: str = "") -> None:
        self._phase = phase
        self._detail = detail
        self.changed.set()


def _dead(name: str, reason: str) -> ProblemError:
    return ProblemError("engine-dead", f"{name} lost its core: {reason}", status=503)
