"""Reads the `/status` of services: all at once, each with its own time limit, and keeps how old each answer is.

A service that is slow or dead costs its own answer only: the others are read as often as ever, nobody waits, and the
last good answer stays with its age, so that a decision can tell "idle" from "not heard of for a minute".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import aiohttp
from pydantic import BaseModel, ValidationError

from shoal.engine.clock import Clock, SystemClock

O = TypeVar("O", bound=Hashable)  # noqa: E741  # the owner of a set of targets
M = TypeVar("M", bound=BaseModel)
log = logging.getLogger(__name__)

INTERVAL = 2.0
TIMEOUT = 1.5
"""Below the interval, so that a dead target has given up before it is asked again."""
PARALLEL = 64
"""Requests in flight; 1,000 dead targets then take 1,000 / 64 * 1.5 s = 24 s to go through, the live ones far less."""
LONGEST_ANSWER = 64 * 1024 * 1024
"""Bytes; a service that answers without end must not fill the operator's memory. The broker of the largest pool
(100,000 members) answers about 30 MB."""


@dataclass(frozen=True, slots=True)
class Target:
    """One service: `url` up to the path (`http://10.0.0.7:8001`), the model of its status."""

    url: str
    model: type[BaseModel]
    path: str = "/status"


@dataclass(frozen=True, slots=True)
class Observation:
    """The last good answer (None: never one), when it came (seconds of the clock), what went wrong since (or "")."""

    value: BaseModel | None
    at: float
    error: str = ""

    def age(self, now: float) -> float:
        """Seconds since the last good answer; infinite when there was none."""
        return now - self.at if self.value is not None else float("inf")


class Scraper(Generic[O]):
    """Polls the targets of each owner. Call `set_targets` on every reconcile; run `run` in a task."""

    def __init__(
        self,
        *,
        interval: float = INTERVAL,
        timeout: float = TIMEOUT,
        parallel: int = PARALLEL,
        clock: Clock | None = None,
    ) -> None:
        self._interval = interval
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._slots = asyncio.Semaphore(parallel)
        self._parallel = parallel
        self._clock = clock or SystemClock()
        self._targets: dict[tuple[O, str], Target] = {}
        self._names: dict[O, set[str]] = {}
        self._seen: dict[tuple[O, str], Observation] = {}
        self._polling: dict[tuple[O, str], asyncio.Task[None]] = {}
        self._observers: list[Callable[[O], None]] = []
        self._session: aiohttp.ClientSession | None = None

    def on_change(self, observer: Callable[[O], None]) -> None:
        """Have `observer` called with the owner when an answer differs from the last, fails, or comes again."""
        self._observers.append(observer)

    def set_targets(self, owner: O, targets: Mapping[str, Target]) -> None:
        """Poll exactly these services for `owner` from now on, by name; a changed URL starts without an observation."""
        for name in self._names.get(owner, set()) - set(targets):
            self._drop(owner, name)
        for name, target in targets.items():
            known = self._targets.get((owner, name))
            if known is not None and known.url != target.url:
                self._drop(owner, name)
            self._targets[owner, name] = target
        if targets:
            self._names[owner] = set(targets)
        else:
            self._names.pop(owner, None)

    def get(self, owner: O, name: str) -> Observation | None:
        """Return what is known of a service; None when it was never tried."""
        return self._seen.get((owner, name))

    def value(self, owner: O, name: str, model: type[M], *, max_age: float = float("inf")) -> M | None:
        """Return the last good answer, typed, when it is not older than `max_age` seconds."""
        seen = self._seen.get((owner, name))
        if seen is None or not isinstance(seen.value, model) or seen.age(self._clock.now()) > max_age:
            return None
        return seen.value

    async def run(self) -> None:
        """Poll until cancelled. A target still busy with the last request is left out of a round, not waited for."""
        connector = aiohttp.TCPConnector(limit=self._parallel, limit_per_host=4)
        self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout)
        try:
            while True:
                for pair, target in self._targets.items():
                    if pair not in self._polling:
                        task = asyncio.create_task(self._poll(pair, target))
                        self._polling[pair] = task
                        task.add_done_callback(partial(self._polled, pair))
                await self._clock.sleep(self._interval)
        finally:
            for task in list(self._polling.values()):
                task.cancel()
            await self._session.close()

    async def poll_now(self, owner: O, name: str) -> Observation | None:
        """Read one service at once (beside its regular round) and return what is known then."""
        target = self._targets.get((owner, name))
        if target is not None:
            await self._poll((owner, name), target)
        return self.get(owner, name)

    # --- inside

    async def _poll(self, pair: tuple[O, str], target: Target) -> None:
        async with self._slots:
            error, value = "", None
            try:
                value = await self._read(target)
            except TimeoutError:
                error = "no answer in time"
            except (aiohttp.ClientError, OSError) as problem:
                error = f"{type(problem).__name__}: {problem}"
            except ValidationError as problem:
                error = _not_a(target.model, problem)
        if self._targets.get(pair) != target:
            return
        old = self._seen.get(pair)
        if value is not None:
            new = Observation(value, self._clock.now())
        elif old is not None:
            new = Observation(old.value, old.at, error)
        else:
            new = Observation(None, 0.0, error)
        self._seen[pair] = new
        if old is None or old.value != new.value or bool(old.error) != bool(new.error):
            self._tell(pair[0])

    def _polled(self, pair: tuple[O, str], task: asyncio.Task[None]) -> None:
        # A target that was dropped and set again has another task by now.
        if self._polling.get(pair) is task:
            del self._polling[pair]

    async def _read(self, target: Target) -> BaseModel:
        assert self._session is not None, "run() must be running"
        async with self._session.get(target.url + target.path, allow_redirects=False) as answer:
            text = bytearray()
            async for chunk in answer.content.iter_any():
                text += chunk
                if len(text) > LONGEST_ANSWER:
                    raise aiohttp.ClientPayloadError(f"the answer is longer than {LONGEST_ANSWER} bytes")
            if answer.status != 200:
                raise aiohttp.ClientResponseError(
                    answer.request_info, (), status=answer.status, message=bytes(text[:200]).decode(errors="replace")
                )
            return target.model.model_validate_json(bytes(text))

    def _tell(self, owner: O) -> None:
        for observer in self._observers:
            try:
                observer(owner)
            except Exception:
                log.exception("a handler of status changes failed for %s", owner)

    def _drop(self, owner: O, name: str) -> None:
        self._targets.pop((owner, name), None)
        self._seen.pop((owner, name), None)
        task = self._polling.pop((owner, name), None)
        if task is not None:
            task.cancel()


def _not_a(model: type[BaseModel], problem: ValidationError) -> str:
    first = problem.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    return f"not a {model.__name__}: {path}: {first['msg']}"
