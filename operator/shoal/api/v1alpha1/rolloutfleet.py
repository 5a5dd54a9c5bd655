"""RolloutFleet: inference engines behind one endpoint, with live, versioned weights."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from shoal.api.base import ApiModel, Condition, StatusModel
from shoal.api.markers import Cel, Column, ListMap, Resource, Scale
from shoal.api.v1alpha1.common import (
    CountOrPercent,
    Duration,
    HelperPods,
    ModelSpec,
    Name,
    PodTemplate,
    ReplicaRange,
    SharedStorage,
    name_rules,
)


class EngineType(StrEnum):
    """The program that serves the model."""

    VLLM = "VLLM"
    REFERENCE = "Reference"


class EngineSpec(ApiModel):
    """The engine of every worker group."""

    type: EngineType = EngineType.VLLM
    args: Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=64)] = Field(
        default_factory=list, description="Engine arguments, such as --kv-cache-memory-bytes=64M."
    )
    image: (
        Annotated[
            str, Field(min_length=1, max_length=512, description="Image of the engine. Unset: Shoal's own image.")
        ]
        | None
    ) = None


class WorkerGroup(ApiModel):
    """Engines of one shape."""

    name: Annotated[Name, Field(description="Name of the group, part of its engines' names.")]
    template: PodTemplate = Field(default_factory=PodTemplate)
    tensor_parallel: Annotated[
        int, Field(ge=1, le=64, description="GPUs of each node over which one engine spreads the model.")
    ] = 1
    nodes: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            description="Pods of one engine, the stages of a pipeline; above 1 each engine is a LeaderWorkerSet.",
        ),
    ] = 1
    replicas: ReplicaRange = Field(default_factory=ReplicaRange)


class UpdateStrategy(StrEnum):
    """Whether engines take new weights in turn or all at once."""

    ROLLING = "Rolling"
    ALL_AT_ONCE = "AllAtOnce"


class InFlight(StrEnum):
    """What happens to requests that run while an engine loads weights."""

    KEEP_AND_CONTINUE = "KeepAndContinue"
    ABORT_AND_RESUME = "AbortAndResume"
    DRAIN = "Drain"


class Transport(StrEnum):
    """How weights travel from trainer to engines."""

    FILESYSTEM = "Filesystem"


class WeightsPolicy(ApiModel):
    """How a new weight version reaches the engines."""

    strategy: UpdateStrategy = UpdateStrategy.ROLLING
    max_unavailable: Annotated[
        CountOrPercent,
        Field(description="Engines that may load weights at once: a number, or a percentage such as 25%."),
    ] = 1
    in_flight: InFlight = InFlight.KEEP_AND_CONTINUE
    drain_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=86_400,
            description="With inFlight Drain: seconds that running requests are given before they are aborted.",
        ),
    ] = 30
    transport: Transport = Transport.FILESYSTEM


class RoutingPolicy(StrEnum):
    """Which engine a request goes to."""

    PREFIX_AFFINITY = "PrefixAffinity"
    LEAST_LOADED = "LeastLoaded"
    ROUND_ROBIN = "RoundRobin"


class Routing(ApiModel):
    """How requests are spread over engines, and how many may wait."""

    policy: RoutingPolicy = RoutingPolicy.LEAST_LOADED
    max_in_flight_per_engine: Annotated[
        int, Field(ge=1, le=100_000, description="Requests that one engine gets at once; more wait in the gateway.")
    ] = 256
    queue_limit: Annotated[
        int, Field(ge=0, le=1_000_000, description="Waiting requests above which the gateway refuses with 429.")
    ] = 10_000


class FleetAutoscale(ApiModel):
    """When engines are added and removed, between the groups' min and max."""

    target_queue: Annotated[
        int, Field(ge=1, le=100_000, description="Waiting requests per engine that are tolerated.")
    ] = 8
    target_kv_use_percent: Annotated[
        int, Field(ge=1, le=100, description="Share of the key-value cache in use that is tolerated.")
    ] = 80
    scale_up_window: Annotated[
        Duration,
        Field(
            description="How long a target must be exceeded before engines are added: as many as it asks for, at most "
            "twice as many or four more. A fleet without engines wakes at once."
        ),
    ] = "30s"
    scale_down_window: Annotated[
        Duration,
        Field(description="How long engines must have been surplus before they are removed, at most half of them."),
    ] = "5m"


class RolloutFleetSpec(ApiModel):
    """What the user asks for."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "self.engine.type == 'VLLM' || self.workerGroups.all(group, group.nodes == 1)",
            "nodes above 1 needs engine type VLLM",
        ),
    )

    model: ModelSpec
    engine: EngineSpec = Field(default_factory=EngineSpec)
    replicas: (
        Annotated[
            int,
            Field(
                ge=0,
                le=100_000,
                description=(
                    "Pins the number of engines over all groups, 0 included, filled in the groups' order up to each "
                    "max. Unset: load decides within each group's replicas."
                ),
            ),
        ]
        | None
    ) = None
    worker_groups: Annotated[list[WorkerGroup], ListMap("name"), Field(min_length=1, max_length=16)] = Field(
        default_factory=lambda: [WorkerGroup(name="default")], description="Engines by shape; filled in this order."
    )
    weights: WeightsPolicy = Field(default_factory=WeightsPolicy)
    routing: Routing = Field(default_factory=Routing)
    autoscale: FleetAutoscale = Field(default_factory=FleetAutoscale)
    helpers: HelperPods | None = Field(None, description="Resources and placement of the gateway.")
    storage: SharedStorage | None = None
    suspend: Annotated[bool, Field(description="Remove all engines; the resource stays.")] = False


class EnginePhase(StrEnum):
    """Life of one engine."""

    PENDING = "Pending"
    STARTING = "Starting"
    READY = "Ready"
    UPDATING = "Updating"
    DRAINING = "Draining"
    FAILED = "Failed"


class EngineStatusEntry(StatusModel):
    """One engine as the gateway sees it."""

    name: Annotated[str, Field(description="Name of the pod that serves.")]
    phase: Annotated[EnginePhase, Field(description="Where the engine is in its life.")] = EnginePhase.PENDING
    weight_version: Annotated[
        int, Field(description="Version of the weights that it samples with; -1 while it has loaded none.")
    ] = -1
    running: Annotated[int, Field(description="Requests that it samples now.")] = 0
    waiting: Annotated[int, Field(description="Requests that wait inside it.")] = 0
    kv_use_percent: Annotated[int, Field(description="Part of its KV cache that is in use, in percent.")] = 0


class WeightVersions(StatusModel):
    """Weight versions over the engines; -1 while none is known. They count the steps of one run."""

    min: Annotated[int, Field(description="Oldest version among the engines that serve.")] = -1
    max: Annotated[int, Field(description="Newest version among the engines that serve.")] = -1
    target: Annotated[int, Field(description="Version that the gateway brings all engines to.")] = -1
    run: Annotated[str, Field(description="Whose weights they are: a job's name and the start of its UID.")] = ""


class FleetUsage(StatusModel):
    """Seconds since the engines started, summed: there, with a request executing; written only while busy."""

    engine_seconds: Annotated[int, Field(description="Seconds that engines existed.")] = 0
    busy_seconds: Annotated[int, Field(description="Seconds in which an engine had a request to sample.")] = 0
    requests: Annotated[int, Field(description="Requests answered.")] = 0
    served_while_updating: Annotated[
        int, Field(description="Requests that one engine answered while another loaded weights.")
    ] = 0


class RolloutFleetStatus(StatusModel):
    """Observed state of the fleet; written by the operator only."""

    observed_generation: Annotated[
        int, Field(description="Generation of the spec that this status was decided for; 0 before the first pass.")
    ] = 0
    replicas: Annotated[int, Field(description="Engines that exist and are not being deleted.")] = 0
    ready_replicas: Annotated[
        int, Field(description="Engines whose pod is ready; of an engine over several nodes, the leader.")
    ] = 0
    updated_replicas: Annotated[int, Field(description="Engines of the current template.")] = 0
    desired_replicas: Annotated[
        int,
        Field(
            description=(
                "Engines that the fleet aims at: `spec.replicas`, or what load asks for within the worker groups. 0 "
                "while it is suspended."
            )
        ),
    ] = 0
    selector: Annotated[
        str,
        Field(description="Label selector of the engines, as text, for autoscalers that read the scale subresource."),
    ] = ""
    engines: Annotated[
        list[EngineStatusEntry],
        ListMap("name"),
        Field(description="Each engine that the gateway knows.", max_length=4096),
    ] = Field(default_factory=list)
    weight_version: Annotated[WeightVersions, Field(description="Which weights the fleet serves.")] = Field(
        default_factory=WeightVersions
    )
    queued: Annotated[int, Field(description="Requests that wait at the gateway, as it last reported.")] = 0
    endpoint: Annotated[
        str, Field(description="URL of the gateway inside the cluster: the base of the OpenAI routes.")
    ] = ""
    usage: Annotated[FleetUsage, Field(description="What the engines were used for since they started.")] = Field(
        default_factory=FleetUsage
    )
    conditions: Annotated[
        list[Condition],
        ListMap("type"),
        Field(
            description=(
                "Available (an engine answers requests), Progressing (engines come, go, are replaced or load "
                "weights), Degraded (something is wrong; the reason says what)."
            ),
            max_length=16,
        ),
    ] = Field(default_factory=list)


class RolloutFleet(ApiModel):
    """Inference engines behind one gateway; a trainer changes their weights while they serve."""

    cel: ClassVar[tuple[Cel, ...]] = name_rules(47)
    resource: ClassVar[Resource] = Resource(
        kind="RolloutFleet",
        plural="rolloutfleets",
        singular="rolloutfleet",
        short_names=("fleet",),
        categories=("shoal",),
        columns=(
            Column("Desired", ".status.desiredReplicas", "integer"),
            Column("Ready", ".status.readyReplicas", "integer"),
            Column("Version", ".status.weightVersion.min", "integer"),
            Column("Target", ".status.weightVersion.target", "integer"),
            Column("Queued", ".status.queued", "integer"),
            Column("Available", '.status.conditions[?(@.type=="Available")].status'),
            Column("Reason", '.status.conditions[?(@.type=="Available")].reason', priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        scale=Scale(".spec.replicas", ".status.replicas", ".status.selector"),
    )

    spec: RolloutFleetSpec
    status: RolloutFleetStatus = Field(default_factory=RolloutFleetStatus)
