"""The pools and the fleet of a job: ones that exist, or ones that it owns."""

from typing import Annotated, ClassVar

from pydantic import Field

from shoal.api.base import ApiModel
from shoal.api.markers import Cel
from shoal.api.v1alpha1.common import DNS_LABEL, ModelSpec, ObjectRef
from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec
from shoal.api.v1alpha1.rolloutfleet import RolloutFleetSpec


class OwnedFleetSpec(RolloutFleetSpec):
    """A RolloutFleetSpec whose model is taken from the job."""

    model: ModelSpec | None = None  # type: ignore[assignment]  # the job's model is filled in


class FleetTemplate(ApiModel):
    """An owned fleet; its model and storage are the job's."""

    spec: OwnedFleetSpec


class FleetSource(ApiModel):
    """The fleet that samples: one that exists, or one that the job owns."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("has(self.ref) != has(self.template)", "exactly one of ref and template must be set"),
    )

    ref: ObjectRef | None = None
    template: FleetTemplate | None = None


class PoolTemplate(ApiModel):
    """An owned pool."""

    spec: EnvironmentPoolSpec


class EnvironmentSource(ApiModel):
    """A pool that the job's tasks run in: one that exists, or one that the job owns."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("has(self.ref) != has(self.template)", "exactly one of ref and template must be set"),
    )

    name: Annotated[
        str,
        Field(
            pattern=DNS_LABEL, min_length=1, max_length=16, description="Name by which tasks and the report call it."
        ),
    ]
    ref: ObjectRef | None = None
    template: PoolTemplate | None = None
