"""An engine: a core driven by its own thread, seen from asyncio."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import TypeVar

from shoal.api.services.models import (
    EnginePhase,
    EngineStatus,
    FinishReason,
    GenerateRequest,
    GenerateResult,
    InFlightPolicy,
    ParsedAnswer,
    ParseRequest,
    WeightsLoaded,
    WeightsTarget,
    WeightsUpdate,
)
from shoal_workers.engines.core import Call, Core, CoreError, Finished, PromptError
from shoal_workers.engines.driver import Driver
from shoal_workers.engines.exchange import RefusedError, Weights, continued, whole
from shoal_workers.engines.probe import Probe, ProbeError
from shoal_workers.engines.weights import Verifier, Version, WeightsError
from shoal_workers.service import ProblemError

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class _Running:
    """A call at the core: its request's name, what was asked, and what it had when weights were last replaced."""

    name: str
    call: Call
    future: asyncio.Future[Finished]
    parts: list[Finished] = field(default_factory=list)

    def left(self) -> Call:
        """The call for what is left of it."""
        return continued(self.call, whole(self.parts)) if self.parts else self.call

    def end(self, last: Finished) -> None:
        """Answer with all of it."""
        self.future.set_result(whole([*self.parts, last]))


class Engine:
    """Serves generations and loads weights in place.

    `name` is reported with every result. `verifier` looks at weights before the core sees them. `on_failure` is called
    once, on the event loop, with the reason when the core is lost; no call succeeds after that. `changed` is set
    whenever the status should be reported at once.
    """

    def __init__(
        self,
        name: str,
        core: Core,
        probe: Probe | None = None,
        verifier: Verifier | None = None,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.name = name
        self.changed = asyncio.Event()
        self._driver = Driver(core, self._deliver, self._lost)
        self._core = core
        self._probe = probe or Probe()
        self._verifier = verifier or Verifier()
        self._good: Weights | None = None
        self._prepared: tuple[WeightsTarget, Version] | None = None
        self._on_failure = on_failure
        self._phase = EnginePhase.STARTING
        self._detail = ""
        self._keys = itertools.count()
        self._calls: dict[str, _Running] = {}
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
            await self._run(lambda: self._probe.run(self._core, self._core.version))
        except (ProbeError, PromptError) as error:
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
        keys = [key for key, running in self._calls.items() if wanted is None or running.name in wanted]
        if keys:
            await self._run(lambda: self._driver.hand_over(self._core.abort(keys)))
        return len(keys)

    async def parse(self, request: ParseRequest) -> ParsedAnswer:
        """Tool calls and reasoning in an answer; raises ProblemError where this engine has no parsers."""
        self._refuse_when_unfit()
        if not self._core.parsers:
            raise ProblemError("no-parser", f"{self.name} was started without parsers", status=422)
        return await asyncio.to_thread(self._core.parse, request)

    async def prepare(self, target: WeightsTarget) -> None:
        """Look at a version that will be loaded next, while serving; raises ProblemError `weights-unusable`."""
        self._refuse_when_unfit()
        self._prepared = (target, await self._check(target))

    async def load_weights(self, update: WeightsUpdate) -> WeightsLoaded:
        """Serve another version from now on.

        Raises ProblemError: `weights-unusable` where the version is not what was published and nothing was touched,
        `weights-refused` where it failed its proof and the engine serves what it served, `weights-failed` where the
        core is lost.
        """
        async with self._loading:
            self._refuse_when_unfit()
            begin = perf_counter()
            target = WeightsTarget(version=update.version, path=update.path, checksum=update.checksum, run=update.run)
            prepared, self._prepared = self._prepared, None
            fresh = prepared is not None and prepared[0] == target
            version = prepared[1] if prepared is not None and fresh else await self._check(target)
            new = Weights(update.version, version)
            self._set_phase(EnginePhase.UPDATING)
            try:
                difference = await self._replace(new, update)
            except RefusedError as refused:
                self._set_phase(EnginePhase.READY)
                raise ProblemError("weights-refused", f"{version.folder}: {refused}", status=422) from None
            except Exception as failure:
                # Half-loaded weights must never serve: the process ends and a fresh one takes its place.
                self._lost(failure)
                raise ProblemError("weights-failed", str(failure), status=500) from None
            finally:
                self._open.set()
            self._good = new
            self._weights = target
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
            parsers=self._core.parsers,
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

    async def _check(self, target: WeightsTarget) -> Version:
        try:
            return await asyncio.to_thread(self._verifier.check, target)
        except WeightsError as error:
            raise ProblemError("weights-unusable", str(error), status=422) from None

    async def _replace(self, new: Weights, update: WeightsUpdate) -> float:
        if update.in_flight is not InFlightPolicy.KEEP_AND_CONTINUE:
            self._open.clear()
            if update.in_flight is InFlightPolicy.DRAIN and self._calls:
                waiting = [running.future for running in self._calls.values()]
                await asyncio.wait(waiting, timeout=update.drain_seconds)
            await self.abort()
        old = self._good or await asyncio.to_thread(self._original)
        return await self._run(lambda: self._driver.exchange(self._probe, self._asked(), self._keep, new, old))

    def _original(self) -> Weights | None:
        """The weights that the core was opened with, to go back to before any others were loaded."""
        version = self._verifier.original()
        return Weights(0, version) if version is not None else None

    def _asked(self) -> dict[str, Call]:
        """The calls as they stand: what is left of each. (In the core's thread: nothing else changes them there.)"""
        return {key: running.left() for key, running in list(self._calls.items())}

    def _keep(self, part: Finished) -> None:
        """Remember what a call had. (In the core's thread, before it goes on: its end is delivered after this.)"""
        running = self._calls.get(part.key)
        if running is not None:
            running.parts.append(part)

    async def _call(self, name: str, request: GenerateRequest) -> Finished:
        loop = asyncio.get_running_loop()
        key = str(next(self._keys))
        future: asyncio.Future[Finished] = loop.create_future()
        call = Call(key, request.prompt_token_ids, request.sampling)
        self._calls[key] = _Running(name, call, future)
        try:
            self._driver.add(call)
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
            running = self._calls.get(key)
            if running is None or running.future.done():
                continue
            if isinstance(result, PromptError):
                running.future.set_exception(ProblemError("invalid-prompt", str(result), status=422))
            elif isinstance(result, Exception):
                running.future.set_exception(result)
            else:
                running.end(result)
                self._generated += len(running.future.result().tokens)

    def _lost(self, error: BaseException) -> None:
        if self._phase is EnginePhase.FAILED:
            return
        starting = self._phase is EnginePhase.STARTING
        reason = f"{type(error).__name__}: {error}"
        self._set_phase(EnginePhase.FAILED, reason)
        self._open.set()
        for running in list(self._calls.values()):
            if running.future.done():
                continue
            if running.parts:
                # What it had before the update is the old weights' and stays; another engine goes on from there.
                running.end(Finished(running.call.key, [], [], [], FinishReason.ABORT))
            else:
                running.future.set_exception(_dead(self.name, reason))
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
