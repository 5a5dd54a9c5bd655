"""Why a pod does not start, where its status does not say: the Warning events that nodes and controllers write of it.

A volume that cannot be mounted, a sandbox that cannot be made, a quota that refuses a StatefulSet's pod stand in events
alone. They are looked up only for pods that are stuck, a few of a resource at a time and every few seconds, so that a
healthy cluster costs nothing and a broken one little.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shoal.engine.clock import Clock
from shoal.kube.client import KubeClient
from shoal.kube.errors import ApiError
from shoal.kube.resources import CORE_EVENTS
from shoal.planner.health import STUCK_SECONDS
from shoal.planner.observed import PodView, Trouble
from shoal.planner.times import parse_timestamp

log = logging.getLogger(__name__)
Json = dict[str, Any]

FIRST_SECONDS = 4.0
"""A pod gets this long before anybody asks: most have started by then."""
LOOK_SECONDS = 10.0
ASKED_PODS = 2
"""Pods of one resource looked up at a time: a condition names one, and the others mostly have the same cause."""
FRESH_SECONDS = 600.0
"""An older event is over: kubelet repeats one that goes on every two minutes or so."""

_REASONS = {
    "FailedAttachVolume": "VolumeFailed",
    "FailedMapVolume": "VolumeFailed",
    "FailedMount": "VolumeFailed",
    "FailedCreatePodSandBox": "PodSandboxFailed",
    "NetworkNotReady": "PodSandboxFailed",
    "FailedCreate": "CreateRefused",
    "FailedScheduling": "Unschedulable",
}
_SAID_BY_STATUS = frozenset({"BackOff", "Failed", "Unhealthy", "Killing", "ProbeWarning"})
"""Of a pod that starts, its status says more; and a startup probe fails as long as the program loads."""


@dataclass
class _Known:
    looked_at: float
    trouble: Trouble | None = None


class PodEvents:
    """Looks events up in the background and puts what they say into the views of pods. Run `run` in a task."""

    def __init__(self, client: KubeClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._known: dict[str, dict[str, _Known]] = {}
        self._due: dict[str, float] = {}
        self._queue: asyncio.Queue[tuple[str, str, PodView]] = asyncio.Queue()
        self._observers: list[Callable[[str], None]] = []

    def on_change(self, observer: Callable[[str], None]) -> None:
        """Have `observer` called with the owner's UID when something else is known of one of its pods."""
        self._observers.append(observer)

    def explained(self, uid: str, namespace: str, pods: Sequence[PodView], now: float) -> list[PodView]:
        """The owner's pods with what events say of those that are stuck; asks again where it is due.

        `now` is in seconds since the epoch, as the pods' times are.
        """
        stuck = sorted((pod for pod in pods if is_stuck(pod, now)), key=lambda pod: pod.name)[:ASKED_PODS]
        before = self._known.get(uid, {})
        known = {pod.uid: before.get(pod.uid) or _Known(-LOOK_SECONDS) for pod in stuck}
        moment = self._clock.now()
        for pod in stuck:
            if moment >= known[pod.uid].looked_at + LOOK_SECONDS:
                known[pod.uid].looked_at = moment
                self._queue.put_nowait((uid, namespace, pod))
        self._due.pop(uid, None)
        waits = [stuck_in(pod, now) for pod in pods]
        dues = [wait for wait in waits if wait is not None] + [LOOK_SECONDS] * bool(stuck)
        if dues:
            self._due[uid] = min(dues)
        if not known:
            self._known.pop(uid, None)
            return list(pods)
        self._known[uid] = known
        return [replace(pod, obstacle=known[pod.uid].trouble) if pod.uid in known else pod for pod in pods]

    def due_in(self, uid: str) -> float | None:
        """Seconds until the pods of this owner should be looked at again, None if never."""
        return self._due.get(uid)

    def forget(self, uid: str) -> None:
        """Drop what is known of an owner that is gone."""
        self._known.pop(uid, None)
        self._due.pop(uid, None)

    async def run(self) -> None:
        """Look up until cancelled, one request at a time."""
        while True:
            uid, namespace, pod = await self._queue.get()
            try:
                found = explain(await self._events(namespace, pod), pod, self._clock.wall().timestamp())
            except ApiError as error:
                log.debug("events of pod %s/%s: %s", namespace, pod.name, error)
                continue
            known = self._known.get(uid, {}).get(pod.uid)
            if known is not None and known.trouble != found:
                known.trouble = found
                for observer in self._observers:
                    observer(uid)

    async def _events(self, namespace: str, pod: PodView) -> list[Json]:
        # What makes the pod may say why there is none: a StatefulSet has its LeaderWorkerSet's name.
        names = dict.fromkeys([pod.name, *([pod.holder.name] if pod.holder is not None else [])])
        found: list[Json] = []
        for name in names:
            fields = f"involvedObject.name={name},type=Warning"
            found += (await self._client.list(CORE_EVENTS, namespace, fields=fields)).items
        return found


def is_stuck(pod: PodView, now: float) -> bool:
    """Whether events may say more of a pod than its status does."""
    wait = stuck_in(pod, now)
    return wait is not None and wait <= 0


def stuck_in(pod: PodView, now: float) -> float | None:
    """Seconds until the pod counts as stuck, if nothing happens; 0 or less if it does, None if it never will."""
    held = pod.gated or pod.unschedulable or pod.trouble is not None
    if pod.ready or pod.deleting or pod.finished or held:
        return None
    if pod.started:
        return pod.since + STUCK_SECONDS - now
    return pod.created_at + FIRST_SECONDS - now if pod.node or not pod.made else None


def explain(events: Iterable[Json], pod: PodView, now: float) -> Trouble | None:
    """What the newest event that says why says, as reason and message of a condition."""
    found = [(at, event) for event in events if _counts(event, pod) and (at := _time(event)) > now - FRESH_SECONDS]
    if not found:
        return None
    newest = max(found, key=lambda each: each[0])[1]
    reason, message = newest.get("reason") or "", (newest.get("message") or "").strip()
    if pod.started:
        return Trouble("PodNotReady", message)
    return Trouble(_reason(reason, message), message if reason in _REASONS else f"{reason}: {message}")


def _counts(event: Json, pod: PodView) -> bool:
    about = event.get("involvedObject") or {}
    if pod.holder is None and about.get("uid") != pod.uid:
        return False
    if pod.started:
        return event.get("reason") == "Unhealthy"
    return event.get("reason") not in _SAID_BY_STATUS and _time(event) >= pod.created_at


def _time(event: Json) -> float:
    series = event.get("series") or {}
    metadata = event.get("metadata") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    text = next((time for time in times if time), metadata.get("creationTimestamp"))
    return parse_timestamp(text) if text else 0.0


def _reason(reason: str, message: str) -> str:
    if reason == "FailedMount" and ("not found" in message or "non-existent" in message):
        return "ConfigurationMissing"
    return _REASONS.get(reason, "CannotStart")
