"""EnvironmentPool: warm, leased agent environments."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from shoal.api.base import ApiModel, Condition, StatusModel
from shoal.api.markers import Cel, Column, ListMap, Resource, Scale
from shoal.api.v1alpha1.common import (
    CountOrPercent,
    Duration,
    FreeForm,
    HelperPods,
    Name,
    PodTemplate,
    PositiveDuration,
    name_rules,
)

OPENENV = "OpenEnv"
"""The protocol that an image can serve by itself, without an entrypoint."""


class EnvironmentSpec(ApiModel):
    """The environment that every member hosts."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "self.protocol == 'OpenEnv' || self.protocol.contains(':') || has(self.entrypoint)",
            "entrypoint is required unless protocol is OpenEnv or your own",
        ),
        Cel(
            "self.protocol != 'OpenEnv' || has(self.entrypoint) || has(self.image)",
            "protocol OpenEnv needs an image that serves its wire protocol, or an entrypoint (URL or module:factory)",
        ),
    )

    protocol: Annotated[
        str,
        Field(
            max_length=253,
            pattern=r"^(OpenEnv|Gymnasium|TextArena|[A-Za-z0-9][A-Za-z0-9_.-]*:[A-Za-z_][A-Za-z0-9_.]*)$",
            description="How the environment is reached: OpenEnv, Gymnasium, TextArena, or package:Name, an adapter of "
            "your own (an entry point `Name` of the distribution `package` in the group shoal.environments).",
        ),
    ]
    entrypoint: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=512,
                description="Environment id (Gymnasium, TextArena), URL (OpenEnv) or module:factory.",
            ),
        ]
        | None
    ) = None
    image: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=512,
                description="Image of the member. Unset: Shoal's own image; OpenEnv then needs an entrypoint.",
            ),
        ]
        | None
    ) = None
    config: FreeForm = Field(
        default_factory=dict, description="Passed to the adapter; see environment.config in the reference."
    )


class Variant(ApiModel):
    """A task image of its own inside the pool, sized by its own demand."""

    name: Annotated[Name, Field(description="Name that a lease request asks for.")]
    image: (
        Annotated[
            str,
            Field(min_length=1, max_length=512, description="Image in place of environment.image. Unset: that one."),
        ]
        | None
    ) = None
    entrypoint: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=512,
                description="Entry point in place of environment.entrypoint. Unset: that one.",
            ),
        ]
        | None
    ) = None
    config: FreeForm = Field(default_factory=dict, description="Merged over environment.config.")
    weight: Annotated[
        int,
        Field(ge=0, le=1_000_000, description="Share of the members while nobody waits for one variant in particular."),
    ] = 1


class MemberBackend(StrEnum):
    """What a member is made of."""

    POD = "Pod"
    AGENT_SANDBOX = "AgentSandbox"


class Network(StrEnum):
    """Where an environment may connect to."""

    DENY = "Deny"
    CLUSTER_INTERNAL = "ClusterInternal"
    INTERNET = "Internet"


class Isolation(ApiModel):
    """What separates an environment from the cluster; no member ever gets a service-account token."""

    runtime_class_name: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=253,
                description="RuntimeClass of the members, such as gvisor. Unset: the cluster's default runtime.",
            ),
        ]
        | None
    ) = None
    network: Network = Network.DENY


class LifecycleMode(StrEnum):
    """Whether a slot serves many episodes (with a reset between) or its member is replaced after one."""

    PERSISTENT = "Persistent"
    EPHEMERAL = "Ephemeral"


class ResetPolicy(ApiModel):
    """How a slot is made ready for the next lease."""

    verify: bool = Field(True, description="Check the slot after a reset; a slot that fails is quarantined.")
    timeout: Annotated[PositiveDuration, Field(description="A reset that takes longer has failed.")] = "60s"


class Lifecycle(ApiModel):
    """When slots and members are re-used and when they are replaced."""

    mode: LifecycleMode = LifecycleMode.PERSISTENT
    reset: ResetPolicy = Field(default_factory=ResetPolicy)
    max_episodes: (
        Annotated[
            int,
            Field(
                ge=1,
                le=1_000_000_000,
                description="Episodes after which a member is replaced. Unset: no number of episodes replaces it.",
            ),
        ]
        | None
    ) = None
    max_age: Annotated[
        PositiveDuration | None,
        Field(
            description=(
                "Age after which a member is replaced; it waits until no lease holds a slot. Unset: age replaces no "
                "member."
            )
        ),
    ] = None
    quarantine: Annotated[
        int, Field(ge=1, le=1000, description="Faults of one slot after which it is quarantined.")
    ] = 1


class LeasePolicy(ApiModel):
    """How long a lease lives, and how many may wait for one."""

    heartbeat: Annotated[PositiveDuration, Field(description="How often a holder renews its lease.")] = "10s"
    ttl: Annotated[
        PositiveDuration, Field(description="Time without renewal after which the member takes the slot back.")
    ] = "30s"
    max_episode_seconds: Annotated[
        int, Field(ge=1, le=604_800, description="Seconds after which a lease ends even when it is renewed.")
    ] = 1800
    max_step_seconds: Annotated[
        int,
        Field(
            ge=1,
            le=604_800,
            description="Seconds after which a step counts as hung: its episode fails, its slot gets a new instance.",
        ),
    ] = 300
    max_reset_seconds: Annotated[
        int,
        Field(
            ge=1,
            le=604_800,
            description="As maxStepSeconds, for the reset that starts an episode. Making a slot ready between two "
            "episodes is bounded by lifecycle.reset.timeout.",
        ),
    ] = 300
    max_evaluate_seconds: Annotated[
        int,
        Field(
            ge=1,
            le=604_800,
            description="As maxStepSeconds, for computing the reward where the environment does that apart from a "
            "step (a verifier that runs tests). An episode ends after maxEpisodeSeconds whatever it does.",
        ),
    ] = 1800
    queue_limit: Annotated[
        int, Field(ge=0, le=1_000_000, description="Waiting lease requests above which the broker refuses.")
    ] = 10_000


class PoolScale(ApiModel):
    """How many members the pool keeps; `spec.replicas`, when set, pins the number instead."""

    cel: ClassVar[tuple[Cel, ...]] = (Cel("self.min <= self.max", "min must not be above max"),)

    min: Annotated[int, Field(ge=0, le=100_000, description="Members that are always kept.")] = 0
    max: Annotated[int, Field(ge=0, le=100_000, description="Members that are never exceeded.")] = 10
    buffer: Annotated[
        CountOrPercent,
        Field(description="Free slots that are kept ready: a number, or a percentage such as 10% of the leased ones."),
    ] = 1
    refill_rate: Annotated[int, Field(ge=1, le=100_000, description="Members created per second at most.")] = 1000
    max_pending: Annotated[int, Field(ge=1, le=100_000, description="Members that may be starting at once.")] = 1000
    scale_down_delay: Annotated[
        Duration, Field(description="How long members must have been surplus before they are removed.")
    ] = "60s"


class EnvironmentPoolSpec(ApiModel):
    """What the user asks for."""

    environment: EnvironmentSpec
    variants: Annotated[list[Variant], ListMap("name"), Field(max_length=256)] = Field(
        default_factory=list, description="Several task images in one pool."
    )
    replicas: (
        Annotated[
            int,
            Field(
                ge=0,
                le=100_000,
                description=(
                    "Pins the number of members, 0 included; scale then only shapes the pace. Unset: demand decides "
                    "within scale."
                ),
            ),
        ]
        | None
    ) = None
    slots_per_member: Annotated[int, Field(ge=1, le=1024, description="Leases that one member serves at once.")] = 1
    backend: Annotated[
        MemberBackend,
        Field(description="Pod: made by Shoal. AgentSandbox: by kubernetes-sigs/agent-sandbox, from one Sandbox each."),
    ] = MemberBackend.POD
    template: PodTemplate = Field(default_factory=PodTemplate)
    helpers: HelperPods | None = Field(None, description="Resources and placement of the broker.")
    isolation: Isolation = Field(default_factory=Isolation)
    lifecycle: Lifecycle = Field(default_factory=Lifecycle)
    lease: LeasePolicy = Field(default_factory=LeasePolicy)
    scale: PoolScale = Field(default_factory=PoolScale)
    suspend: Annotated[bool, Field(description="Remove all members and refuse leases; the resource stays.")] = False


class SlotCounts(StatusModel):
    """Slots by state, over all members."""

    total: Annotated[int, Field(description="Slots of the members that report to the broker, in whatever state.")] = 0
    leased: Annotated[int, Field(description="Slots that a lease holds now.")] = 0
    free: Annotated[int, Field(description="Slots that a lease gets at once.")] = 0
    provisioning: Annotated[int, Field(description="Slots that members who are still to come will add.")] = 0
    quarantined: Annotated[
        int,
        Field(
            description=(
                "Slots out of service after a reset or a check failed; a member with no other slots is replaced."
            )
        ),
    ] = 0


class VariantStatus(StatusModel):
    """One variant's members and slots."""

    name: Annotated[str, Field(description="Name of the variant; `default` where the pool has no `variants`.")]
    desired: Annotated[int, Field(description="Members that the variant aims at; 0 while the pool is suspended.")] = 0
    members: Annotated[int, Field(description="Members that exist and are not being deleted.")] = 0
    ready: Annotated[int, Field(description="Members whose pod is ready.")] = 0
    slots: Annotated[SlotCounts, Field(description="Slots of these members by state.")] = Field(
        default_factory=SlotCounts
    )


class LeaseLatency(StatusModel):
    """Seconds a lease waited, over the broker's last window, as decimal text (Kubernetes has no floats in its API)."""

    p50: Annotated[str, Field(description="Median; 0 while nothing was leased in the window.")] = "0"
    p99: Annotated[str, Field(description="99th percentile; 0 while nothing was leased in the window.")] = "0"


class PoolUsage(StatusModel):
    """Seconds since the broker started, summed over slots: there, inside an episode, executing an action.

    Written only while episodes run, so that an idle pool's status stays as it is.
    """

    slot_seconds: Annotated[int, Field(description="Seconds that slots existed.")] = 0
    occupied_seconds: Annotated[int, Field(description="Seconds that slots spent inside an episode.")] = 0
    active_seconds: Annotated[int, Field(description="Seconds that slots spent executing an action.")] = 0


class EnvironmentPoolStatus(StatusModel):
    """Observed state of the pool; written by the operator only."""

    observed_generation: Annotated[
        int, Field(description="Generation of the spec that this status was decided for; 0 before the first pass.")
    ] = 0
    replicas: int = Field(0, description="Members that exist and are not being deleted.")
    ready_replicas: Annotated[int, Field(description="Members whose pod is ready.")] = 0
    updated_replicas: int = Field(0, description="Members of the current template.")
    desired_replicas: Annotated[
        int,
        Field(
            description=(
                "Members that the pool aims at: `spec.replicas`, or what demand asks for within `spec.scale`. 0 while "
                "it is suspended."
            )
        ),
    ] = 0
    selector: Annotated[
        str,
        Field(description="Label selector of the members, as text, for autoscalers that read the scale subresource."),
    ] = ""
    slots: Annotated[SlotCounts, Field(description="Slots of all members by state.")] = Field(
        default_factory=SlotCounts
    )
    queued: Annotated[int, Field(description="Lease requests that wait for a slot, as the broker last reported.")] = 0
    variants: Annotated[
        list[VariantStatus],
        ListMap("name"),
        Field(description="The counts by variant; empty for a pool without `spec.variants`.", max_length=256),
    ] = Field(default_factory=list)
    endpoint: Annotated[str, Field(description="URL of the broker inside the cluster, where agents lease.")] = ""
    latency: Annotated[LeaseLatency, Field(description="How long leases waited for a slot.")] = Field(
        default_factory=LeaseLatency
    )
    usage: Annotated[PoolUsage, Field(description="What the slots were used for since the broker started.")] = Field(
        default_factory=PoolUsage
    )
    conditions: Annotated[
        list[Condition],
        ListMap("type"),
        Field(
            description=(
                "Available (a member can be leased), Progressing (members come, go or are replaced), Degraded "
                "(something is wrong; the reason says what)."
            ),
            max_length=16,
        ),
    ] = Field(default_factory=list)


class EnvironmentPool(ApiModel):
    """A pool of warm environments that agents lease one slot at a time."""

    cel: ClassVar[tuple[Cel, ...]] = name_rules(47)
    resource: ClassVar[Resource] = Resource(
        kind="EnvironmentPool",
        plural="environmentpools",
        singular="environmentpool",
        short_names=("envpool",),
        categories=("shoal",),
        columns=(
            Column("Desired", ".status.desiredReplicas", "integer"),
            Column("Ready", ".status.readyReplicas", "integer"),
            Column("Slots", ".status.slots.total", "integer"),
            Column("Leased", ".status.slots.leased", "integer"),
            Column("Free", ".status.slots.free", "integer"),
            Column("Queued", ".status.queued", "integer"),
            Column("Available", '.status.conditions[?(@.type=="Available")].status'),
            Column("Reason", '.status.conditions[?(@.type=="Available")].reason', priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        scale=Scale(".spec.replicas", ".status.replicas", ".status.selector"),
    )

    spec: EnvironmentPoolSpec
    status: EnvironmentPoolStatus = Field(default_factory=EnvironmentPoolStatus)
