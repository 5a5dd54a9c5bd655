"""Leases of environment slots: between agents and the broker, and between the broker and a member's lease guard.

Instants are Unix seconds, durations are seconds.
"""

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from shoal.api.services.common import Finding, Message, Report

DEFAULT_VARIANT = "default"


class SlotState(StrEnum):
    """Where a slot is in its life; only the member's guard changes it."""

    FREE = "free"
    LEASED = "leased"
    RESETTING = "resetting"
    QUARANTINED = "quarantined"
    RETIRED = "retired"


class Outcome(StrEnum):
    """How an episode left its slot: fit for reuse after a reset, of unknown state, or broken."""

    OK = "ok"
    DIRTY = "dirty"
    FAULT = "fault"


class LeaseRequest(Message):
    """Ask the broker for a slot, waiting up to `wait` seconds; the same `key` asks for the same lease again."""

    key: str = Field(min_length=1, max_length=255)
    holder: str = Field(min_length=1, max_length=255)
    task: str = Field("", max_length=1024, description="The task's id; for logs and metrics.")
    variant: str | None = Field(None, max_length=63, description="None: any variant.")
    ttl: float | None = Field(None, gt=0, le=86_400, description="None: the pool's.")
    wait: float = Field(0.0, ge=0, le=60)


class Lease(Report):
    """The exclusive right to use one slot until `expires_at`, unless renewed; `heartbeat` says how often to renew."""

    id: str
    key: str
    holder: str
    member: str
    slot: int
    variant: str
    environment_url: str
    token: str
    ttl: float
    heartbeat: float
    expires_at: float
    answer_seconds: float = Field(
        300.0, description="The longest that the member takes for one call; a client waits a little longer."
    )


class LeaseQueued(Report):
    """No slot yet: ask again with the same key before `deadline` to keep the place in the queue."""

    key: str
    position: int
    deadline: float


class LeaseRenewed(Report):
    """The lease lives until `expires_at`."""

    id: str
    expires_at: float


class GrantRequest(Message):
    """Broker to guard: lease any free slot to the holder. The same key gets the same grant."""

    lease_id: str = Field(min_length=1, max_length=64)
    key: str = Field(min_length=1, max_length=255)
    holder: str = Field(min_length=1, max_length=255)
    ttl: float = Field(gt=0)
    max_seconds: float = Field(gt=0, description="The lease ends after this, however often it is renewed.")


class Grant(Report):
    """Guard to broker: the slot is leased. `revision` is the guard's, see MemberReport.

    `uid` and `started_at` say which process of the member granted it: it may be younger than the one that the broker
    knows of.
    """

    lease_id: str
    key: str
    holder: str
    slot: int
    environment_url: str
    token: str
    expires_at: float
    revision: int
    uid: str = ""
    started_at: float


class RenewRequest(Message):
    """Broker to guard, and agent to broker: live `ttl` seconds longer; None keeps the lease's own ttl."""

    ttl: float | None = Field(None, gt=0, le=86_400)


class Released(Report):
    """The lease is over; `state` is the slot's state now."""

    lease_id: str
    slot: int
    state: SlotState
    revision: int


class RetireRequest(Message):
    """Take slots out of service: `slots` of them, or all.

    With `drain`, leased slots retire when their lease ends; without, nothing happens while any slot is leased
    (problem `member-leased`, 409).
    """

    slots: int | Literal["all"] = "all"
    drain: bool = False


class Retired(Report):
    """Slots that are retired, and leased ones that will be."""

    retired: int
    leased: int
    revision: int


class SlotReport(Report):
    """One slot as its guard sees it."""

    index: int
    state: SlotState
    lease_id: str = ""
    key: str = ""
    holder: str = ""
    expires_at: float = 0.0
    episodes: int = 0
    faults: int = 0
    retiring: bool = False
    reason: str = Field("", description="Why the slot is quarantined or cannot be made ready.")


class EnvironmentReport(Report):
    """What a member's environment did since the process started.

    Slot seconds: slots times the process's age; occupied: seconds inside an episode, active: seconds executing reset,
    step or grading; all summed over slots.
    """

    name: str = ""
    adapter: str = ""
    slot_seconds: float = 0.0
    occupied_seconds: float = 0.0
    active_seconds: float = 0.0
    episodes: int = 0
    steps: int = 0
    invalid_actions: int = 0
    errors: int = 0
    expiries: int = Field(0, description="Leases that ended without a release.")
    last_error: str = ""


class MemberReport(Report):
    """A member's state, sent to the broker every two seconds and on change.

    `revision` grows with every change of the guard within one process (`uid`, `started_at`): the highest one is newest.
    """

    name: str
    uid: str
    url: str
    variant: str = DEFAULT_VARIANT
    revision: int = 0
    slots: list[SlotReport] = Field(default_factory=list)
    retiring: bool = False
    started_at: float = 0.0
    environment: EnvironmentReport = Field(default_factory=EnvironmentReport)


class GuardState(Report):
    """The guard's full state (`GET /guard`)."""

    name: str
    revision: int
    slots: list[SlotReport]


class SlotTotals(Report):
    """Slots by state; `provisioning` are being made ready (first start, or reset after an episode)."""

    total: int = 0
    leased: int = 0
    free: int = 0
    provisioning: int = 0
    quarantined: int = 0
    retired: int = 0


class MemberStatus(Report):
    """One member as the broker knows it; `age` is the seconds since its last report, `lost` after too many of them."""

    name: str
    uid: str
    url: str
    variant: str
    slots: SlotTotals
    retiring: bool = False
    age: float = 0.0
    lost: bool = False
    episodes: int = 0
    last_error: str = ""


class VariantTotals(Report):
    """One variant's members, slots and waiting requests."""

    members: int = 0
    slots: SlotTotals = Field(default_factory=SlotTotals)
    queued: int = 0


class BrokerStatus(Report):
    """The pool as its broker sees it. Waits are seconds over the last grants; seconds and counters only grow."""

    members: list[MemberStatus] = Field(default_factory=list)
    slots: SlotTotals = Field(default_factory=SlotTotals)
    variants: dict[str, VariantTotals] = Field(default_factory=dict)
    queued: int = 0
    queued_any: int = Field(0, description="Waiting requests that any variant would do for.")
    grants: int = 0
    releases: int = 0
    expiries: int = 0
    lost: int = Field(0, description="Leases whose member disappeared.")
    refused: int = Field(0, description="Requests turned away because the queue was full.")
    wait_p50: float = 0.0
    wait_p99: float = 0.0
    episodes: int = 0
    steps: int = 0
    errors: int = 0
    slot_seconds: float = 0.0
    occupied_seconds: float = 0.0
    active_seconds: float = 0.0
    findings: list[Finding] = Field(default_factory=list)
    uptime_seconds: float = 0.0


class EnvironmentStatus(Report):
    """A member's own status."""

    name: str
    pool: str
    variant: str
    slots: SlotTotals
    retiring: bool
    registered: bool = Field(description="Whether the broker took the last report.")
    environment: EnvironmentReport


class ResetRequest(Report):
    """Start an episode (OpenEnv's wire form; unknown fields reach the environment as part of the task)."""

    seed: int | None = Field(None, ge=0)
    episode_id: str | None = Field(None, max_length=255)
    task: dict[str, Any] = Field(default_factory=dict)


class StepRequest(Report):
    """Do one action, a JSON object; `{"text": ...}` is what a model wrote (OpenEnv's wire form)."""

    action: dict[str, Any]
    timeout_s: float | None = Field(None, gt=0)


class Picture(Report):
    """A picture, as base64 of a file of that media type."""

    media_type: str
    data: str


class Observation(Report):
    """What the environment shows: text for a model, data for programs, pictures by the path of what they show.

    `metadata` has `terminated`, `truncated`, and `invalid_action` (the reason) where the action was malformed and the
    environment did not say how that counts.
    """

    text: str = ""
    data: Any = None
    images: dict[str, Picture] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)


class StepResult(Report):
    """The answer to a reset or a step (OpenEnv's wire form). `reward` None means that none was given."""

    observation: Observation
    reward: float | None = None
    done: bool = False

    @property
    def terminated(self) -> bool:
        """Whether the environment ended the episode."""
        return bool(self.observation.metadata.get("terminated", self.done and not self.truncated))

    @property
    def truncated(self) -> bool:
        """Whether a limit ended the episode."""
        return bool(self.observation.metadata.get("truncated", False))

    @property
    def invalid_action(self) -> str | None:
        """Why the action was malformed, or None."""
        reason = self.observation.metadata.get("invalid_action")
        return None if reason is None else str(reason)
