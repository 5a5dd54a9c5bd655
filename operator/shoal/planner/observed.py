"""What a pass sees: pods cut down to what decisions need."""

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from shoal.api.labels import ROLE, SPEC_HASH, VARIANT, WORKER_GROUP
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


@dataclass(frozen=True)
class PodView:
    """One pod. Times are seconds since the epoch.

    Args:
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
    gated: bool = False
    unschedulable: str = ""
    trouble: Trouble | None = None
    group: str = ""
    holder: Holder | None = None
    made: bool = True

    @property
    def finished(self) -> bool:
        """Whether the pod will never run again."""
        return self.phase in ("Succeeded", "Failed")


def view(pod: dict[str, Any]) -> PodView:
    """The view of a pod as the API server returns it (or a reflector's trimmed copy of it)."""
    metadata, status = pod["metadata"], pod.get("status", {})
    labels, annotations = metadata.get("labels", {}), metadata.get("annotations", {})
    conditions = {condition["type"]: condition for condition in status.get("conditions", [])}
    scheduled = conditions.get("PodScheduled", {})
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    waits = scheduled.get("status") == "False"
    return PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        role=labels.get(ROLE, ""),
        spec_hash=annotations.get(SPEC_HASH, ""),
        phase=status.get("phase", "Pending"),
        ready=conditions.get("Ready", {}).get("status") == "True",
        deleting="deletionTimestamp" in metadata,
        created_at=parse_timestamp(metadata["creationTimestamp"]),
        ip=status.get("podIP", ""),
        restarts=sum(container.get("restartCount", 0) for container in containers),
        gated=bool(pod.get("spec", {}).get("schedulingGates")),
        unschedulable=scheduled.get("message", "") if waits and scheduled.get("reason") == "Unschedulable" else "",
        trouble=_trouble(containers, status),
        group=labels.get(VARIANT) or labels.get(WORKER_GROUP) or "",
    )


_HARMLESS_WAITS = frozenset({"ContainerCreating", "PodInitializing", ""})


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
    if status.get("phase") == "Failed":
        return Trouble(status.get("reason", "Failed"), status.get("message", ""))
    return None


@dataclass(frozen=True)
class Expected:
    """Effects of this process that its cache does not show yet.

    `refused` says why the API server would not have a pod when it was last asked: a quota, an admission policy;
    `taken`, which child could not be made because somebody else's object has its name.
    """

    creations: dict[str, int] = field(default_factory=dict)
    deletions: frozenset[str] = frozenset()
    refused: str = ""
    taken: str = ""

    def creating(self, role: str) -> int:
        """Pods of this role that were asked for and not seen yet."""
        return self.creations.get(role, 0)


@dataclass(frozen=True)
class Reading(Generic[T]):
    """A service's /status as last read; `value` is None until it has answered once."""

    value: T | None = None
    age: float = float("inf")
    error: str = ""
