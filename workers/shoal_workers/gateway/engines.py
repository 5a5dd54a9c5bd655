"""The engines a gateway knows: their reports, their weights, and the tasks that update them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from time import monotonic

import aiohttp

from shoal.api.services.common import Finding
from shoal.api.services.models import EnginePhase, EngineReport, WeightsLoaded, WeightsTarget, WeightsUpdate
from shoal.api.services.roles.gateway import GatewayConfig
from shoal_workers.gateway import rollout, tenure
from shoal_workers.gateway.admission import Admission
from shoal_workers.gateway.known import Known
from shoal_workers.gateway.tenure import Tenure, Verdict
from shoal_workers.gateway.trial import REFUSED, UNUSABLE, Trial
from shoal_workers.service import ProblemError, ServiceClient, Token

logger = logging.getLogger(__name__)

# After a restart, engines that were there before get this many report intervals to say what they serve.
SETTLE_INTERVALS = 1.5
# A lost engine is listed for this many times the silence after which it counted as lost, so that it can be seen.
FORGET_FACTOR = 12.0
# The registry looks twice per interval. A longer pause between two looks was this process standing still, when it could
# hear nobody: that time says nothing of the engines.
STALL_INTERVALS = 1.0


class Engines:
    """The registry. Reports and outcomes change it, `rollout.plan` decides, tasks carry the updates out."""

    def __init__(
        self, config: GatewayConfig, admission: Admission, token: Token, clock: Callable[[], float] = monotonic
    ) -> None:
        self._config = config
        self._admission = admission
        self._token = token
        self._clock = clock
        self._began = clock()
        self._looked = self._began
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None
        self.known: dict[str, Known] = {}
        self.serving: frozenset[str] = frozenset()
        self._tenure: Tenure | None = None
        self.updates = 0
        self.update_seconds = 0.0
        self.trial = Trial()

    @asynccontextmanager
    async def running(self, session: aiohttp.ClientSession) -> AsyncIterator[None]:
        """Look after the engines while the block runs, with `session`'s connections."""
        self._session = session
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            tasks = [task, *self._tasks]
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def report(self, report: EngineReport) -> None:
        """Take an engine's report."""
        now = self._clock()
        known = self.known.get(report.name)
        if known is None or _restarted(known, report):
            if known is not None:
                known.lose()
            known = self._make(report, now)
            self.known[report.name] = known
        known.report, known.seen, known.suspect, known.lost = report, now, False, False
        weights = report.status.weights
        if not known.member.updating:
            known.member = replace(known.member, key=_reported_key(report, self.target))
        if weights is not None and report.status.phase is EnginePhase.READY:
            self.trial = self.trial.passed(weights)
        if weights is not None:
            self._hold(tenure.reported(self._tenure, weights, now))
        self.replan()

    def forget(self, name: str, uid: str) -> None:
        """An engine has said goodbye."""
        known = self.known.get(name)
        if known is not None and (not uid or known.report.uid == uid):
            del self.known[name]
            self.replan()

    def suspect(self, name: str) -> None:
        """A call to an engine failed: nothing more goes there until it reports again."""
        known = self.known.get(name)
        if known is not None:
            known.suspect = True
            self.replan()

    def drain(self, name: str) -> int:
        """Route nothing more to an engine; gives how many requests it still has. Raises ProblemError (404)."""
        known = self.known.get(name)
        if known is None:
            raise ProblemError("unknown-engine", f"no engine {name}", status=404)
        known.draining = True
        self.replan()
        return self._admission.in_flight(name)

    @property
    def target(self) -> WeightsTarget | None:
        """The weights that the fleet shall have, None before any are known."""
        return self._tenure.target if self._tenure else None

    @property
    def aimed(self) -> WeightsTarget | None:
        """The weights that engines are given: the target, or the last good ones while that is quarantined."""
        return self.trial.aim(self.target)

    def set_target(self, target: WeightsTarget, *, reset: bool = False) -> None:
        """Roll these weights out; `reset` takes any.

        Raises ProblemError (409) `older-version` where the run has a newer target, `fleet-in-use` where another run
        has the fleet, `weights-quarantined` where the version was tried and is bad.
        """
        now = self._clock()
        verdict, held = tenure.offered(self._tenure, target, now, reset=reset)
        current = held.target
        if verdict is Verdict.IN_USE:
            raise ProblemError("fleet-in-use", self._in_use(target.run), status=409, extensions={"run": current.run})
        self._hold(held)
        if reset:
            self.trial = Trial(self.trial.good)
        self.replan()
        reason = self.trial.quarantined(target)
        if reason:
            raise ProblemError("weights-quarantined", reason, status=409, extensions={"version": target.version})
        if verdict is Verdict.OLDER:
            detail = f"version {current.version} is the target already; {target.version} is older"
            raise ProblemError("older-version", detail, status=409, extensions={"target": current.version})

    def leave(self, run: str) -> None:
        """The trainer of a run has stopped; where it does not come back, another run may soon have the fleet."""
        self._tenure = tenure.left_by(self._tenure, run, self._clock())

    def check_run(self, run: str) -> None:
        """Raises ProblemError `fleet-in-use` (503) where the fleet has another run's weights; "" takes any."""
        if run and self.target is not None and self.target.run != run:
            raise ProblemError("fleet-in-use", self._in_use(run), status=503)

    def _in_use(self, run: str) -> str:
        assert self._tenure is not None
        holder, left = self._tenure.target.run, self._tenure.left(self._clock())
        return (
            f"the fleet serves the weights of run {holder!r}; {run or 'another'!r} gets it once nothing has been heard "
            f"of that run for {tenure.TENURE_SECONDS:g} s, in {left:.0f} s at the earliest"
        )

    def _hold(self, held: Tenure) -> None:
        before, self._tenure = self.target, held
        if held.target != before:
            logger.info(
                "target", extra={"run": held.target.run, "version": held.target.version, "path": held.target.path}
            )
            for known in self.known.values():
                # What an engine said of other weights says nothing of these.
                known.detail = ""
                known.member = replace(known.member, failures=0, retry_at=0.0)

    @property
    def update_error(self) -> str:
        """Why engines have not got the target: it is quarantined, or what one of them said; "" while they have."""
        failing = (known.detail for known in self.known.values() if known.detail and known.member.failures)
        return self.trial.quarantined(self.target) or next(failing, "")

    def findings(self) -> list[Finding]:
        """What is wrong now."""
        quarantined = self.trial.quarantined(self.target)
        if quarantined:
            serves = f"version {self.trial.good.version}" if self.aimed and self.trial.good else "no published version"
            return [Finding(reason="WeightsQuarantined", message=f"{quarantined}; the fleet keeps {serves}")]
        error = self.update_error
        return [Finding(reason="WeightUpdateFailed", message=error)] if error else []

    def client(self, name: str) -> ServiceClient | None:
        """The client of an engine, None where it has gone."""
        known = self.known.get(name)
        return known.client if known else None

    def parser(self, name: str, *, tools: bool) -> Known | None:
        """An engine to parse an answer of `name`'s: itself, else another; None where none parses what is asked for.

        Reasoning is looked for in every answer of engines that do, tool calls where there are `tools`.
        """
        wanted = {"reasoning", *(("tools",) if tools else ())}
        able = [k for k in self.known.values() if wanted & set(k.report.status.parsers) and not k.lost]
        return next((known for known in able if known.report.name == name), able[0] if able else None)

    def age(self, known: Known) -> float:
        """Seconds since an engine's last report."""
        return self._clock() - known.seen

    def others_update(self, name: str) -> bool:
        """Whether an engine is loading weights while this one is not."""
        updating = [known.report.name for known in self.known.values() if known.member.updating]
        return bool(updating) and name not in updating

    @property
    def settled(self) -> bool:
        """Whether engines that were here before this gateway had time to report."""
        return self.target is not None or self._clock() - self._began >= SETTLE_INTERVALS * self._config.report_seconds

    def replan(self) -> float | None:
        """Decide anew, start what is due; gives when to look again."""
        now = self._clock()
        self._forgive_stall(now)
        self._lose_silent(now)
        members = [replace(known.member, able=self._able(known)) for known in self.known.values()]
        most = self.trial.most(self.target) if self.target is not None else None
        plan = rollout.plan(
            members if self.settled else [],
            rollout.key_of(self.aimed),
            self._allowed(),
            self._config.update_timeout,
            now,
            most,
        )
        for name, member in plan.members.items():
            self.known[name].member = member
        for name in plan.update:
            self._start(name)
        self.serving = plan.serve
        self._admission.set_places({name: self.known[name].member.key.version for name in plan.serve})
        return plan.wake_at

    def _forgive_stall(self, now: float) -> None:
        """Time for which this process stood still is no engine's silence."""
        stalled = now - self._looked
        self._looked = now
        if stalled > STALL_INTERVALS * self._config.report_seconds:
            logger.warning("the gateway stood still", extra={"seconds": round(stalled, 1)})
            for known in self.known.values():
                known.seen = min(now, known.seen + stalled)

    def _lose_silent(self, now: float) -> None:
        """An engine that says nothing any more answers nothing any more: what waits for it goes elsewhere."""
        limit = self._config.missed_reports * self._config.report_seconds
        for name, known in list(self.known.items()):
            silence = now - known.seen
            if silence > limit and not known.lost:
                logger.warning("engine is silent", extra={"engine": name, "seconds": round(silence, 1)})
                known.lose()
            if silence > limit * FORGET_FACTOR:
                del self.known[name]

    def _able(self, known: Known) -> bool:
        # An engine that loads weights holds requests, then answers them; `updating` says who may ask it meanwhile.
        fit = known.report.status.phase in (EnginePhase.READY, EnginePhase.UPDATING)
        return fit and not known.lost and not known.suspect and not known.draining

    def _allowed(self) -> int:
        count = len(self.known)
        if self._config.strategy == "AllAtOnce":
            return max(1, count)
        return allowed_unavailable(self._config.max_unavailable, count)

    def _make(self, report: EngineReport, now: float) -> Known:
        timeout = self._config.update_timeout + self._config.drain_seconds
        client = ServiceClient(report.url, token=self._token, session=self._session, timeout=timeout)
        member = rollout.Member(report.name, _reported_key(report, self.target))
        return Known(report, now, member, client, f"{client.base_url}/generate")

    def _start(self, name: str) -> None:
        assert self.aimed is not None
        task = asyncio.create_task(self._update(self.known[name], self.aimed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _update(self, known: Known, target: WeightsTarget) -> None:
        name, begin = known.report.name, self._clock()
        body = WeightsUpdate(
            **target.model_dump(), in_flight=self._config.in_flight, drain_seconds=self._config.drain_seconds
        )
        known.loading = target.version
        try:
            with known.watched():
                # What takes longest, reading all of it, happens while the engine serves.
                await self._prepare(known, target)
                known.member = rollout.prepared(known.member)
                self.replan()
                loaded = await known.client.post("/weights", body, WeightsLoaded, retries=0)
            if loaded.version != target.version:
                detail = f"it reports version {loaded.version}, not {target.version}"
                raise ProblemError("wrong-version", detail, status=500)
        except ProblemError as error:
            self._failed(known, target, error)
        except Exception as error:
            # Whatever it was, an engine must not count as updating for ever.
            logger.exception("update failed", extra={"engine": name, "version": target.version})
            self._failed(known, target, ProblemError("update-failed", f"{type(error).__name__}: {error}", status=500))
        else:
            known.member = rollout.succeeded(known.member, rollout.key_of(target))
            known.detail = ""
            self.trial = self.trial.passed(target)
            self.updates += 1
            self.update_seconds += self._clock() - begin
        finally:
            known.loading = None
        if self.known.get(name) is known:
            self.replan()

    async def _prepare(self, known: Known, target: WeightsTarget) -> None:
        try:
            await known.client.call("POST", "/weights/prepare", target, retries=0)
        except ProblemError as error:
            # An engine of an earlier release looks at them when it loads.
            if error.status not in (404, 405):
                raise

    def _failed(self, known: Known, target: WeightsTarget, error: ProblemError) -> None:
        name = known.report.name
        logger.warning("update failed", extra={"engine": name, "version": target.version, "detail": str(error)})
        known.detail = f"{name}: version {target.version}: {error.detail}"
        known.suspect = known.suspect or error.status == 503
        intact = error.name in (UNUSABLE, REFUSED) or known.member.preparing
        known.member = rollout.failed(known.member, self._clock(), intact=intact)
        before = self.trial.quarantined(target)
        self.trial = self.trial.failed(target, error.name, known.detail)
        if self.trial.quarantined(target) and not before:
            logger.warning("version quarantined", extra={"version": target.version, "detail": error.detail})

    async def _watch(self) -> None:
        """Notice what no message tells: engines that fell silent, updates that are due again."""
        while True:
            self.replan()
            await asyncio.sleep(self._config.report_seconds / 2)


def allowed_unavailable(value: int | str, count: int) -> int:
    """`max_unavailable` as a number of engines; a percentage is rounded down, and one may always be updated."""
    number = int(value.removesuffix("%")) * count // 100 if isinstance(value, str) else value
    return max(1, number)


def _restarted(known: Known, report: EngineReport) -> bool:
    """Another process under the same name: another pod, or a container that began anew."""
    before = known.report
    moved = report.uid != before.uid or report.url != before.url
    return moved or report.status.uptime_seconds < before.status.uptime_seconds


def _reported_key(report: EngineReport, target: WeightsTarget | None) -> rollout.Key:
    """What the engine has; one that reports no weights has the original ones, whoever published them as version 0."""
    status = report.status
    if status.weights is None:
        original = target is not None and target.version == status.weight_version
        return rollout.key_of(target) if original else rollout.Key(status.weight_version)
    return rollout.key_of(status.weights.model_copy(update={"version": status.weight_version}))
