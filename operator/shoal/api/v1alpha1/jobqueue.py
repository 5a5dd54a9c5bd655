"""Where a queue admitted a job: what its pods were given at that moment, and keep until they rest again."""

from typing import Annotated

from pydantic import Field

from shoal.api.base import StatusModel
from shoal.api.markers import ListMap
from shoal.api.v1alpha1.common import FreeForm


class PodSetAdmission(StatusModel):
    """One set of like pods: how many were admitted, and what the queue adds to their templates."""

    name: str
    count: int = 0
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[FreeForm] = Field(default_factory=list)
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class AdmissionStatus(StatusModel):
    """An admission by Kueue. Flavors that change later do not move pods that run."""

    workload: str
    cluster_queue: str = ""
    fingerprint: str = Field("", description="Hash of what Kueue decided, to tell one admission from the next.")
    pod_sets: Annotated[list[PodSetAdmission], ListMap("name"), Field(max_length=18)] = Field(default_factory=list)
