"""Kubernetes Events about our objects: aggregated, rate-limited, and never the reason a reconcile fails.

Record on transitions only (a condition changed, a pod was replaced), not on every pass. What is recorded
again all the same is counted up in the one event; many messages of one reason on one object become one combined
event; and an object that talks too much is cut off, as client-go does it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.engine.clock import Clock, SystemClock
from shoal.kube.client import KubeClient
from shoal.kube.errors import ApiError, NotFoundError
from shoal.kube.resources import CORE_EVENTS

Json = dict[str, Any]
log = logging.getLogger(__name__)

SIMILAR_WINDOW = 600.0
SIMILAR_LIMIT = 10
"""More than 10 different messages of one reason on one object within 10 min become one event."""
BURST, REFILL_SECONDS = 25.0, 300.0
"""At most 25 writes at once per object, and one more each 5 min: a flapping object must not fill etcd."""
REMEMBERED = 4096
"""Events and objects remembered for counting; the least recent is forgotten first."""
QUEUED = 1000
"""Events waiting to be written while the server is away; more are dropped."""
MESSAGE_LIMIT = 1024
"""Longest message the API accepts."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The object an event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    def to_json(self) -> Json:
        """Return an ObjectReference."""
        return {
            "apiVersion": self.api_version,
            "kind": self.kind,
            "namespace": self.namespace,
            "name": self.name,
            "uid": self.uid,
        }


def read_reference(reference: Mapping[str, str]) -> Reference:
    """Read an ObjectReference (`apiVersion`, `kind`, `namespace`, `name`, `uid`)."""
    namespace = reference.get("namespace", "")
    return Reference(reference["apiVersion"], reference["kind"], namespace, reference["name"], reference["uid"])


@dataclass(slots=True)
class Written:
    """An event on the server: its name and how often it happened."""

    name: str
    count: int
    first: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What to write: a new event (`count` 1) or a higher count of the event `name`."""

    name: str
    message: str
    count: int
    first: str


@dataclass(slots=True)
class _Similar:
    since: float
    messages: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Bucket:
    tokens: float = BURST
    at: float = 0.0


class Correlator:
    """Decides what becomes of each event; pure but for its memory. `now` in seconds, `stamp` as RFC 3339."""

    def __init__(self) -> None:
        self._written: OrderedDict[tuple[str, ...], Written] = OrderedDict()
        self._similar: OrderedDict[tuple[str, ...], _Similar] = OrderedDict()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def decide(
        self, about: Reference, level: str, reason: str, message: str, *, now: float, stamp: str
    ) -> Decision | None:
        """Return what to write for this event, or None when its object has written too much."""
        if not self._allow(about.uid, now):
            return None
        kind = (about.uid, level, reason)
        similar = _touch(self._similar, kind, lambda: _Similar(now))
        if now - similar.since > SIMILAR_WINDOW:
            similar.since, similar.messages = now, set()
        similar.messages.add(message)
        combined = len(similar.messages) > SIMILAR_LIMIT
        if combined:
            message = f"(combined from similar events): {message}"
            similar.messages = set(list(similar.messages)[: SIMILAR_LIMIT + 1])
        key = (*kind, "" if combined else message)
        written = _touch(self._written, key, lambda: Written(_event_name(about.name), 0, stamp))
        written.count += 1
        return Decision(written.name, message, written.count, written.first)

    def forget(self, name: str) -> None:
        """Forget the event `name`: it is no longer on the server, so the next one must be new."""
        for key in [key for key, written in self._written.items() if written.name == name]:
            del self._written[key]

    def _allow(self, uid: str, now: float) -> bool:
        bucket = _touch(self._buckets, uid, lambda: _Bucket(at=now))
        bucket.tokens = min(BURST, bucket.tokens + (now - bucket.at) / REFILL_SECONDS)
        bucket.at = now
        if bucket.tokens < 1.0:
            return False
        bucket.tokens -= 1.0
        return True


class EventRecorder:
    """Takes events at once and writes them in the background; run `run` in a task."""

    def __init__(
        self,
        client: KubeClient,
        *,
        component: str = "shoal-operator",
        instance: str = "",
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._component = component
        self._instance = instance
        self._clock = clock or SystemClock()
        self._correlator = Correlator()
        self._queue: asyncio.Queue[tuple[Reference, str, str, str]] = asyncio.Queue(QUEUED)
        self.dropped = 0
        """Events not written: too many of one object, or the server was away."""

    async def record(self, about: Reference | Mapping[str, str], level: str, reason: str, message: str) -> None:
        """Record an event: `level` Normal or Warning, `about` an ObjectReference, `reason` a CamelCase word.

        Only remembers it: never waits for the server and never fails.
        """
        reference = about if isinstance(about, Reference) else read_reference(about)
        try:
            self._queue.put_nowait((reference, level, reason, message[:MESSAGE_LIMIT]))
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        """Write recorded events until cancelled."""
        while True:
            event = await self._queue.get()
            try:
                await self._write(*event)
            except ApiError as error:
                self.dropped += 1
                log.debug("event not written: %s", error)
            except Exception:
                self.dropped += 1
                log.exception("event not written: %s", event)
            finally:
                self._queue.task_done()

    async def flush(self, seconds: float = 2.0) -> None:
        """Wait for what was recorded so far to be written, for `seconds` at most; `run` must be running."""
        try:
            async with asyncio.timeout(seconds):
                await self._queue.join()
        except TimeoutError:
            log.debug("%d events were not written in time", self._queue.qsize())

    async def _write(self, about: Reference, level: str, reason: str, message: str) -> None:
        stamp = self._clock.wall().strftime("%Y-%m-%dT%H:%M:%SZ")
        decision = self._correlator.decide(about, level, reason, message, now=self._clock.now(), stamp=stamp)
        if decision is None:
            self.dropped += 1
            return
        namespace = about.namespace or "default"
        if decision.count > 1:
            patch = {"count": decision.count, "lastTimestamp": stamp, "message": decision.message}
            try:
                await self._client.patch(CORE_EVENTS, decision.name, patch, namespace)
            except NotFoundError:
                # Events live an hour on the server; this one is over, so the next count begins at 1.
                self._correlator.forget(decision.name)
                await self._write(about, level, reason, message)
            return
        try:
            await self._client.create(CORE_EVENTS, self._body(about, level, reason, decision, stamp), namespace)
        except ApiError:
            self._correlator.forget(decision.name)
            raise

    def _body(self, about: Reference, level: str, reason: str, decision: Decision, stamp: str) -> Json:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": decision.name, "namespace": about.namespace or "default"},
            "involvedObject": about.to_json(),
            "type": level,
            "reason": reason,
            "message": decision.message,
            "count": decision.count,
            "firstTimestamp": decision.first,
            "lastTimestamp": stamp,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": self._instance,
        }


def _event_name(name: str) -> str:
    return f"{name[:230]}.{secrets.token_hex(8)}"


def _touch(memory: OrderedDict[Any, Any], key: Any, make: Any) -> Any:
    if key in memory:
        memory.move_to_end(key)
    else:
        memory[key] = make()
        if len(memory) > REMEMBERED:
            memory.popitem(last=False)
    return memory[key]
