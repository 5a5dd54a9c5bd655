"""Where a queue admitted a job: what its pods were given at that moment, and keep until they rest again."""

from typing import Annotated

from pydantic import Field

from shoal.api.base import StatusModel
from shoal.api.markers import ListMap
from shoal.api.v1alpha1.common import FreeForm


class PodSetAdmission(StatusModel):
    """One set of like pods: how many were admitted, and what the queue adds to their templates."""

    name: Annotated[str, Field(description="Name of the pod set in the Workload.")]
    count: Annotated[
        int, Field(description="Pods admitted; may be less than the job asks for where the set has a range.")
    ] = 0
    node_selector: Annotated[dict[str, str], Field(description="Node labels that the admission adds to the pods.")] = (
        Field(default_factory=dict)
    )
    tolerations: Annotated[list[FreeForm], Field(description="Tolerations that the admission adds to the pods.")] = (
        Field(default_factory=list)
    )
    labels: Annotated[dict[str, str], Field(description="Labels that an admission check adds to the pods.")] = Field(
        default_factory=dict
    )
    annotations: Annotated[
        dict[str, str], Field(description="Annotations that an admission check adds to the pods.")
    ] = Field(default_factory=dict)


class AdmissionStatus(StatusModel):
    """An admission by Kueue. Flavors that change later do not move pods that run."""

    workload: Annotated[str, Field(description="Name of the Workload that was admitted.")]
    cluster_queue: Annotated[str, Field(description="ClusterQueue whose quota the job uses.")] = ""
    fingerprint: str = Field("", description="Hash of what Kueue decided, to tell one admission from the next.")
    pod_sets: Annotated[
        list[PodSetAdmission],
        ListMap("name"),
        Field(description="What each set of like pods was given.", max_length=18),
    ] = Field(default_factory=list)
