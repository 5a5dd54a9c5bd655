"""What a pass sees: pods cut down to what decisions need."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from shoal.api.labels import LAID_UNDER, MAIN, ROLE, SPEC_HASH, VARIANT, WORKER_GROUP
from shoal.planner.times import parse_timestamp

T = TypeVar("T")


@dataclass(frozen=True)
class Trouble:
    """Why a container does not run: Kubernetes' reason, and the message of its termination log where it left one."""

    reason: str
    message: str


@dataclass(frozen=True)
class Holder:
    """The object of another operator that a pod is made from: it is created and deleted in the pod's place."""

    kind: str
    name: str


LOST_SECONDS = 5.0
"""What a kubelet gets beyond a pod's grace to end it and to say so. A pod that is still there then has no kubelet, or
one that cannot end it: waiting longer would leave a plane short for as long as its node is away."""


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod. Times are seconds since the epoch.

    Args:
        phase: Kubernetes' phase, but that of the main container once it has ended for good: what a sidecar does that
            somebody else put into the pod keeps no role from having ended.
        restarts: of the main container and of init containers, whatever their cause.
        own_fault: whether the last of these ends was the container's own, not that of its node, nor of a deletion.
        disrupted: reason of the pod's DisruptionTarget condition, "" while nothing disrupts it.
        grace_until: when the grace of the pod's deletion is over; None while it is not being deleted.
        started: whether the main container runs and has got through its startup probe.
        since: when `ready` last changed.
        waiting: what a container waits for that has not started yet (ContainerCreating), or "".
        obstacle: what the node, or another operator, says of a pod that does not start; it may be over by now.
        incurable: what the main container said when it ended with `MISCONFIGURED`, or ""; no restart will cure it.
        last_words: of the newest failure of the main container, also while it runs again; or "".
        holder: the Sandbox or LeaderWorkerSet that stands for the pod; `uid` is then its UID, `name` the pod's name.
        made: whether there is a pod yet; always, where nothing stands for it.
    """

    name: str
    uid: str
    role: str
    spec_hash: str
    phase: str
    ready: bool
    deleting: bool
    created_at: float
    ip: str = ""
    restarts: int = 0
    own_fault: bool = True
    disrupted: str = ""
    grace_until: float | None = None
    node: str = ""
    started: bool = False
    since: float = 0.0
    waiting: str = ""
    gated: bool = False
    laid_under: str = ""
    unschedulable: str = ""
    trouble: Trouble | None = None
    obstacle: Trouble | None = None
    incurable: str = ""
    last_words: str = ""
    group: str = ""
    holder: Holder | None = None
    made: bool = True

    @property
    def finished(self) -> bool:
        """Whether the pod will never run again."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def lost_at(self) -> float | None:
        """From when on a pod that is being deleted counts as lost."""
        return None if self.grace_until is None else self.grace_until + LOST_SECONDS

    def lost(self, now: float) -> bool:
        """Whether the pod should have ended by now and nobody on its node says that it has."""
        return self.lost_at is not None and now >= self.lost_at

    def holds_place(self, now: float) -> bool:
        """Whether no other pod may be created in its place yet.

        A pod that Shoal lets go holds its place until it is gone, so that a set never exceeds its bound. One that is
        disrupted or lost does not, as with a Deployment: its end may take as long as its node is away.
        """
        return not self.deleting or not (self.disrupted or self.lost(now))


def next_loss(pods: Iterable[PodView], now: float) -> float | None:
    """Seconds until the next pod that is being deleted counts as lost; no event tells of that."""
    return min((at - now for pod in pods if (at := pod.lost_at) is not None and at > now), default=None)


MISCONFIGURED = 2
"""The code with which a role's process ends when its configuration cannot work: a field, a file, a permission."""
NOT_ITS_OWN = frozenset({"ContainerStatusUnknown", "Unknown", "NodeShutdown"})
"""Reasons of an end that the container had no part in: its node was restarted, lost its runtime, or was shut down."""


def view(pod: dict[str, Any]) -> PodView:
    """The view of a pod as the API server returns it (or a reflector's trimmed copy of it)."""
    metadata, spec, status = pod["metadata"], pod.get("spec", {}), pod.get("status", {})
    labels, annotations = metadata.get("labels", {}), metadata.get("annotations", {})
    conditions = {condition["type"]: condition for condition in status.get("conditions", [])}
    scheduled, ready = conditions.get("PodScheduled", {}), conditions.get("Ready", {})
    disruption = conditions.get("DisruptionTarget", {})
    sidecars = {each["name"] for each in spec.get("initContainers", []) if each.get("restartPolicy") == "Always"}
    early = [each for each in status.get("initContainerStatuses", []) if each["name"] not in sidecars]
    containers = status.get("containerStatuses", [])
    main = [each for each in containers if each["name"] == MAIN] or containers
    ended = deletion_time(metadata)
    waits = scheduled.get("status") == "False"
    return PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        role=labels.get(ROLE, ""),
        spec_hash=annotations.get(SPEC_HASH, ""),
        laid_under=annotations.get(LAID_UNDER, ""),
        phase=_phase(status, main, spec.get("restartPolicy", "Always")),
        ready=ready.get("status") == "True",
        deleting=ended is not None,
        created_at=parse_timestamp(metadata["creationTimestamp"]),
        ip=status.get("podIP", ""),
        restarts=sum(container.get("restartCount", 0) for container in [*early, *main]),
        own_fault=_own_fault([*early, *main], status),
        disrupted=disruption.get("reason", "Disrupted") if disruption.get("status") == "True" else "",
        grace_until=ended,
        node=spec.get("nodeName", ""),
        started=any(container.get("started") for container in main),
        since=parse_timestamp(ready.get("lastTransitionTime") or metadata["creationTimestamp"]),
        waiting=_waiting([*early, *containers]),
        gated=bool(spec.get("schedulingGates")),
        unschedulable=scheduled.get("message", "") if waits and scheduled.get("reason") == "Unschedulable" else "",
        trouble=_trouble([*status.get("initContainerStatuses", []), *containers], status),
        incurable=next((_words(end) for end in _failures(main) if end["exitCode"] == MISCONFIGURED), ""),
        last_words=next(map(_words, _failures(main)), ""),
        group=labels.get(VARIANT) or labels.get(WORKER_GROUP) or "",
    )


def deletion_time(metadata: dict[str, Any]) -> float | None:
    """When the grace of an object's deletion is over (Kubernetes adds it to `deletionTimestamp`), or None."""
    text = metadata.get("deletionTimestamp")
    return parse_timestamp(text) if text else None


def _phase(status: dict[str, Any], main: list[dict[str, Any]], restart_policy: str) -> str:
    phase: str = status.get("phase", "Pending")
    if phase not in ("Pending", "Running") or not main or restart_policy == "Always":
        return phase
    ends = [container.get("state", {}).get("terminated") for container in main]
    codes = [end.get("exitCode", 0) for end in ends if end]
    if len(codes) < len(main):
        return phase
    if not any(codes):
        return "Succeeded"
    return "Failed" if restart_policy == "Never" else phase


def _own_fault(containers: list[dict[str, Any]], status: dict[str, Any]) -> bool:
    """Whether the newest end among these containers was the container's own.

    A pod that fails before any container has run was turned away by its node (OutOfcpu, UnexpectedAdmissionError).
    """
    ends = [
        end
        for container in containers
        for state in ("lastState", "state")
        if (end := container.get(state, {}).get("terminated"))
    ]
    if not ends:
        return status.get("phase") != "Failed"
    newest = max(ends, key=lambda end: str(end.get("finishedAt") or ""))
    return newest.get("reason") not in NOT_ITS_OWN


def _failures(containers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How these containers last failed; of each the newest one."""
    ends: list[dict[str, Any]] = [
        next((end for state in ("state", "lastState") if (end := container.get(state, {}).get("terminated"))), {})
        for container in containers
    ]
    return [end for end in ends if end.get("exitCode")]


def _words(end: dict[str, Any]) -> str:
    return end.get("message") or f"{end.get('reason', 'Error')} (exit code {end['exitCode']})"


_HARMLESS_WAITS = frozenset({"ContainerCreating", "PodInitializing", ""})


def _waiting(containers: list[dict[str, Any]]) -> str:
    reasons = [(container.get("state", {}).get("waiting") or {}).get("reason", "") for container in containers]
    return next((reason for reason in reasons if reason), "")


def _trouble(containers: list[dict[str, Any]], status: dict[str, Any]) -> Trouble | None:
    for container in containers:
        state = container.get("state", {})
        waiting, ended = state.get("waiting", {}), state.get("terminated") or {}
        last = container.get("lastState", {}).get("terminated") or {}
        died = ended if ended.get("exitCode") else last if last.get("exitCode") else {}
        if waiting and waiting.get("reason", "") not in _HARMLESS_WAITS:
            return Trouble(waiting["reason"], died.get("message") or waiting.get("message", ""))
        if ended.get("exitCode"):
            return Trouble(ended.get("reason", "Error"), ended.get("message") or f"exit code {ended['exitCode']}")
        if died and not container.get("ready"):
            # It runs again and has not shown that it can: the cause stays, or it would come and go with each attempt.
            return Trouble(died.get("reason", "Error"), died.get("message") or f"exit code {died['exitCode']}")
    if status.get("phase") == "Failed":
        return Trouble(status.get("reason", "Failed"), status.get("message", ""))
    return None


@dataclass(frozen=True)
class Refused:
    """Why the API server would not have an object: reason and message of the Degraded condition."""

    reason: str
    message: str


@dataclass(frozen=True)
class Expected:
    """Effects of this process that its cache does not show yet.

    `refused` says of roles and of children (by kind and name) why the API server would not have them when it was last
    asked: a quota, an admission policy, a name that is taken.
    """

    creations: dict[str, int] = field(default_factory=dict)
    deletions: frozenset[str] = frozenset()
    refused: Mapping[str, Refused] = field(default_factory=dict)

    def creating(self, role: str) -> int:
        """Pods of this role that were asked for and not seen yet."""
        return self.creations.get(role, 0)


@dataclass(frozen=True)
class Reading(Generic[T]):
    """A service's /status as last read; `value` is None until it has answered once."""

    value: T | None = None
    age: float = float("inf")
    error: str = ""
