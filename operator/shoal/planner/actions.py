"""What a plan asks the controller to do. Order matters: actions are applied from first to last."""

from dataclasses import dataclass, field
from typing import Any, Literal

from shoal.planner.observed import Holder

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Apply:
    """Server-side apply of a shared child (Service, NetworkPolicy, an owned custom resource).

    Args:
        manifest: the whole child.
        first: it is not known to exist. Whoever has its name already keeps it.
        drift: what somebody changed in it, in words; told in an Event once it is repaired.
        version: with `drift`, the resourceVersion that it was seen at.
    """

    manifest: Manifest
    first: bool = False
    drift: str = ""
    version: str = ""


@dataclass(frozen=True)
class CreateOnce:
    """Creation of a child that is not applied again (a Secret with a random token); one that exists is kept."""

    manifest: Manifest


@dataclass(frozen=True)
class RenewToken:
    """A new token for exactly this version of a Secret, with `current` kept as the one before.

    `edited`: somebody wrote the current one, so that whoever did so knows it.
    """

    secret: str
    resource_version: str
    current: str
    edited: bool = False


@dataclass(frozen=True)
class ForgetToken:
    """Removal of the token before the current one from exactly this version of a Secret."""

    secret: str
    resource_version: str


@dataclass(frozen=True)
class CreatePod:
    """Creation of one pod, or of the object that it is made from; `role` names the expectation it is counted under."""

    role: str
    manifest: Manifest


@dataclass(frozen=True)
class DeletePod:
    """Deletion of exactly this pod (never of a later one of the same name), or of what it is made from.

    `force`: without waiting for the pod's node, which answers no more.
    """

    role: str
    name: str
    uid: str
    reason: str
    holder: Holder | None = None
    force: bool = False


@dataclass(frozen=True)
class RetireMember:
    """Drain a member: no new lease is given, running ones end by themselves; once none is left its pod is deleted."""

    name: str
    uid: str
    reason: str
    holder: Holder | None = None


@dataclass(frozen=True)
class DrainEngine:
    """Let an engine finish or hand over its requests, then delete its pod."""

    name: str
    uid: str
    reason: str
    holder: Holder | None = None


@dataclass(frozen=True)
class DeleteSelf:
    """Deletion of the custom resource itself (time to live after the end)."""


@dataclass(frozen=True)
class DeleteChild:
    """Deletion of exactly this child of another operator's kind (never of a later one of the same name)."""

    kind: str
    name: str
    uid: str
    reason: str


@dataclass(frozen=True)
class ReflectScale:
    """The size that was decided, into the resource's own `spec.replicas`, unless somebody else has set that."""

    replicas: int


@dataclass(frozen=True)
class PatchStatus:
    """Merge patch of the status of another operator's object, at exactly this version of it."""

    kind: str
    name: str
    resource_version: str
    status: Manifest


@dataclass(frozen=True)
class Event:
    """A Kubernetes Event on the resource; written on transitions only."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


Action = (
    Apply
    | CreateOnce
    | RenewToken
    | ForgetToken
    | CreatePod
    | DeletePod
    | RetireMember
    | DrainEngine
    | DeleteSelf
    | DeleteChild
    | ReflectScale
    | PatchStatus
    | Event
)


@dataclass(frozen=True)
class Plan:
    """Everything one pass decided.

    Args:
        actions: effects, in order.
        status: the resource's whole status as plain JSON; written only when it differs from what is stored.
        requeue_after: seconds until the next look if nothing happens before; None for never.
        memory: what the next pass of the same process may want to know; losing it must cost time only.
    """

    actions: tuple[Action, ...] = ()
    status: Manifest = field(default_factory=dict)
    requeue_after: float | None = None
    memory: Any = None
