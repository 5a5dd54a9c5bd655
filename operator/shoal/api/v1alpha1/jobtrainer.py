"""The trainer of a job: the learning rule, its steps and its checkpoints."""

from typing import Annotated, ClassVar

from pydantic import Field

from shoal.api.base import ApiModel
from shoal.api.markers import Cel, StrategyGroup
from shoal.api.strategies import known_name
from shoal.api.v1alpha1.common import Decimal, FreeForm, ObjectRef, PodTemplate, Strategy, TemplateMetadata


class Algorithm(ApiModel):
    """The learning rule, by parts."""

    cel: ClassVar[tuple[Cel, ...]] = tuple(
        known_name(part, f"shoal.trainer.{part}") for part in ("advantage", "corrector", "loss", "selection")
    )

    advantage: Annotated[Strategy, StrategyGroup("shoal.trainer.advantage")] = Field(
        default_factory=lambda: Strategy(name="grpo")
    )
    corrector: Annotated[Strategy, StrategyGroup("shoal.trainer.corrector")] = Field(
        default_factory=lambda: Strategy(name="tis")
    )
    loss: Annotated[Strategy, StrategyGroup("shoal.trainer.loss")] = Field(
        default_factory=lambda: Strategy(name="ppo-clip")
    )
    selection: Annotated[Strategy, StrategyGroup("shoal.trainer.selection")] = Field(
        default_factory=lambda: Strategy(name="all")
    )


class Batch(ApiModel):
    """What one step consumes."""

    groups: Annotated[int, Field(ge=1, le=100_000, description="Groups that one step trains on.")] = 16
    minibatches: Annotated[int, Field(ge=1, le=1024, description="Optimizer updates per epoch.")] = 1
    epochs: Annotated[int, Field(ge=1, le=64, description="Passes over the batch.")] = 1
    tokens_per_micro_batch: (
        Annotated[
            int,
            Field(
                ge=1,
                le=100_000_000,
                description="Tokens in one forward pass, which memory grows with; a longer sequence goes alone. Unset:"
                " measured at the start, by what a token takes of the memory that is free.",
            ),
        ]
        | None
    ) = None


class Optimizer(ApiModel):
    """AdamW and its schedule."""

    learning_rate: Annotated[Decimal, Field(description="Peak learning rate, as decimal text.")] = "1e-6"
    decay_to: Annotated[
        Decimal, Field(description="Share of the learning rate that is left at the last step; it falls linearly.")
    ] = "1.0"
    weight_decay: Annotated[Decimal, Field(description="Decoupled weight decay, as decimal text.")] = "0.0"
    grad_clip: Annotated[Decimal, Field(description="Largest norm of a gradient, as decimal text.")] = "1.0"
    warmup_steps: Annotated[
        int, Field(ge=0, le=1_000_000, description="Steps over which the learning rate rises from 0.")
    ] = 0
    beta1: Annotated[Decimal, Field(description="Decay of the first moment, as decimal text.")] = "0.9"
    beta2: Annotated[Decimal, Field(description="Decay of the second moment, as decimal text.")] = "0.95"


class RayClusterTemplate(ApiModel):
    """A RayCluster of KubeRay that the job owns."""

    metadata: TemplateMetadata = Field(default_factory=TemplateMetadata)
    spec: FreeForm = Field(
        default_factory=dict,
        description="A ray.io/v1 RayClusterSpec. Its pods get the job's storage and model, and the trainer's image"
        " where they name none.",
    )


class OwnedRayCluster(ApiModel):
    """A RayCluster that lives as long as the job, and is suspended with it."""

    template: RayClusterTemplate


class Ray(ApiModel):
    """The Ray cluster that trains: one inside the trainer's pod, one that exists, or one of KubeRay's."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "[has(self.existingCluster), has(self.clusterRef), has(self.cluster)].filter(given, given).size() <= 1",
            "at most one of existingCluster, clusterRef and cluster may be set",
        ),
    )

    existing_cluster: (
        Annotated[
            str,
            Field(
                pattern=r"^(ray://)?[^\s:]+:[0-9]+$",
                max_length=253,
                description=(
                    "HOST:PORT of a running Ray cluster that the trainer joins. Unset: the trainer starts a head of "
                    "its own, or uses clusterRef or cluster."
                ),
            ),
        ]
        | None
    ) = None
    cluster_ref: (
        Annotated[
            ObjectRef,
            Field(description="A RayCluster of KubeRay in this namespace; its pods must mount the job's storage."),
        ]
        | None
    ) = None
    cluster: OwnedRayCluster | None = None


class Checkpoint(ApiModel):
    """How often a step can be resumed from, and how many are kept."""

    every: Annotated[int, Field(ge=1, le=100_000, description="Steps between checkpoints.")] = 1
    keep: Annotated[int, Field(ge=1, le=1000, description="Checkpoints that are kept.")] = 2


class Trainer(ApiModel):
    """The process that turns trajectories into weights."""

    algorithm: Algorithm = Field(default_factory=Algorithm)
    steps: Annotated[int, Field(ge=1, le=100_000_000, description="Steps after which the job is complete.")]
    batch: Batch = Field(default_factory=Batch)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    ray: Ray = Field(default_factory=Ray)
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    template: PodTemplate = Field(default_factory=PodTemplate)
