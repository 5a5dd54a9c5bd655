"""Types that more than one resource uses: durations, pod templates, references, volumes, models."""

import re
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from shoal.api.base import ApiModel
from shoal.api.markers import Cel, IntOrString, PreserveUnknown

GROUP = "rl.shoal.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
PERCENT_OR_COUNT = r"^(100|[0-9]{1,2})%$"

_PART = r"[0-9]+(\.[0-9]+)?(ms|s|m|h)"
_MORE_THAN_NOTHING = r"([0-9]*[1-9][0-9]*(\.[0-9]+)?|[0-9]+\.[0-9]*[1-9][0-9]*)(ms|s|m|h)"
POSITIVE_DURATION = rf"^({_PART})*{_MORE_THAN_NOTHING}({_PART})*$"

Duration = Annotated[str, Field(pattern=DURATION, max_length=32)]
PositiveDuration = Annotated[str, Field(pattern=POSITIVE_DURATION, max_length=32)]
Name = Annotated[str, Field(pattern=DNS_LABEL, min_length=1, max_length=40)]


def _count_or_percent(value: int | str) -> int | str:
    if isinstance(value, int) and value < 0:
        raise ValueError("must not be negative")
    if isinstance(value, str) and not re.match(PERCENT_OR_COUNT, value):
        raise ValueError("must be a number or a percentage such as 10%")
    return value


CountOrPercent = Annotated[
    int | str, IntOrString(minimum=0, pattern=PERCENT_OR_COUNT), AfterValidator(_count_or_percent)
]
"""A number that is not negative, or a percentage such as 10%."""

FreeForm = Annotated[dict[str, Any], PreserveUnknown()]

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(duration: str) -> float:
    """Seconds in a duration such as `90s`, `1m30s` or `250ms`; raises ValueError for anything else."""
    if not re.match(DURATION, duration):
        raise ValueError(f"{duration!r} is not a duration such as 30s, 5m or 1h30m")
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)", duration)
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)


def as_timedelta(duration: str) -> timedelta:
    """The duration as a timedelta; raises ValueError like `seconds`."""
    return timedelta(seconds=seconds(duration))


def resolve_count(value: int | str, total: int, *, round_up: bool = True) -> int:
    """The number that `value` (a count, or a percentage of `total`) stands for; raises ValueError for other text."""
    if isinstance(value, int):
        return value
    if not re.match(PERCENT_OR_COUNT, value):
        raise ValueError(f"{value!r} is neither a number nor a percentage such as 10%")
    share = int(value[:-1]) * total
    return -(-share // 100) if round_up else share // 100


Decimal = Annotated[str, Field(pattern=r"^-?[0-9]+(\.[0-9]+)?([eE]-?[0-9]+)?$", max_length=32)]
"""A decimal number as text, because Kubernetes' API conventions allow no floating point."""


def name_rules(characters: int) -> tuple[Cel, ...]:
    """The rules that keep the names of children, which are longer, names that a Service may have (RFC 1035)."""
    return (
        Cel(f"size(self.metadata.name) <= {characters}", f"the name must not be longer than {characters} characters"),
        Cel(
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "the name must begin with a letter and have lower-case letters, digits and '-' alone, as Services have",
        ),
    )


class TemplateMetadata(ApiModel):
    """Labels and annotations added to the built pod."""

    labels: dict[str, str] = Field(default_factory=dict, description="Labels of the pod; those that Shoal sets win.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Annotations of the pod.")


class PodTemplate(ApiModel):
    """A pod's metadata and PodSpec, strategic-merged over the pod that Shoal builds."""

    metadata: TemplateMetadata = Field(default_factory=TemplateMetadata)
    spec: FreeForm = Field(
        default_factory=dict, description="A core/v1 PodSpec; the container that Shoal builds is named `main`."
    )


class HelperPods(ApiModel):
    """Resources and placement of helper pods: broker, gateway, data manager.

    What is not set comes from the pods that they serve (tolerations, image pull secrets, priority class) or from Shoal
    (resources).
    """

    resources: FreeForm = Field(
        default_factory=dict,
        description="Requests and limits of the helper's container. Not set: modest requests and generous limits.",
    )
    node_selector: dict[str, str] = Field(default_factory=dict, description="Node labels that helpers need.")
    tolerations: list[FreeForm] = Field(
        default_factory=list,
        description="Taints that helpers tolerate. Not set: those of the pods that they serve.",
        max_length=64,
    )
    affinity: FreeForm = Field(default_factory=dict, description="A core/v1 Affinity.")
    priority_class_name: (
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=253,
                description="PriorityClass of helpers. Not set: that of the pods that they serve.",
            ),
        ]
        | None
    ) = None
    image_pull_secrets: list[FreeForm] = Field(
        default_factory=list,
        description="Secrets to pull images with, as `- name: …`. Not set: those of the pods that they serve.",
        max_length=16,
    )

    def to_json(self) -> dict[str, Any]:
        """As a part of a PodSpec: what is set and not empty."""
        return {key: value for key, value in super().to_json().items() if value}


class ObjectRef(ApiModel):
    """An object of the same namespace, by name."""

    name: Annotated[str, Field(pattern=DNS_LABEL, min_length=1, max_length=63, description="Name of the object.")]


class SecretKeyRef(ApiModel):
    """One key of a Secret in the same namespace."""

    name: Annotated[str, Field(min_length=1, max_length=253, description="Name of the Secret.")]
    key: Annotated[str, Field(min_length=1, max_length=253, description="Key in the Secret.")]


class HostPath(ApiModel):
    """A folder of the node; for one-node clusters and the embedded control plane."""

    path: Annotated[str, Field(pattern=r"^/", max_length=1024, description="Absolute path on the node.")]


class ClaimVolume(ApiModel):
    """A PersistentVolumeClaim, ReadWriteMany where pods run on several nodes."""

    claim_name: Annotated[
        str, Field(pattern=DNS_LABEL, max_length=63, description="Name of the PersistentVolumeClaim.")
    ]


class SharedStorage(ApiModel):
    """The volume that data manager, trainer and engines share: weights, checkpoints, the store, the report."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "has(self.hostPath) != has(self.persistentVolumeClaim)",
            "exactly one of hostPath and persistentVolumeClaim must be set",
        ),
    )

    host_path: HostPath | None = None
    persistent_volume_claim: ClaimVolume | None = None


class Dtype(StrEnum):
    """Number format of weights and activations."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class ModelSpec(ApiModel):
    """Where a model's original weights come from, and how it is served."""

    source: Annotated[
        str,
        Field(
            pattern=r"^(hf:[^/\s]+/[^/\s]+|file:/[^\s]*|pvc:[a-z0-9]([-a-z0-9]*[a-z0-9])?/[^\s]*)$",
            max_length=1024,
            description="hf:ORG/NAME, file:/ABSOLUTE/PATH or pvc:CLAIM/PATH.",
        ),
    ]
    served_name: Annotated[
        str, Field(min_length=1, max_length=128, description="Name of the model in OpenAI requests.")
    ] = "policy"
    max_model_len: Annotated[int, Field(ge=16, le=10_000_000, description="Longest context, in tokens.")] = 4096
    dtype: Dtype = Dtype.AUTO


class Strategy(ApiModel):
    """A named rule for one decision, and its parameters."""

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=128,
            description="Name of a built-in strategy, or `package:Name` for one of your own: an entry point of the"
            " distribution `package`, or a class in the module `package`, in the image of the role that decides.",
        ),
    ]
    parameters: FreeForm = Field(
        default_factory=dict, description="Parameters of the strategy; the others keep their defaults."
    )


def formerly(names: dict[str, str]) -> Callable[[Any], Any]:
    """A validator that reads the names which a field had as plain text before it was a strategy."""

    def read(value: Any) -> Any:
        return {"name": names[value]} if isinstance(value, str) and value in names else value

    return read


class ReplicaRange(ApiModel):
    """The smallest and the largest number of replicas."""

    cel: ClassVar[tuple[Cel, ...]] = (Cel("self.min <= self.max", "min must not be above max"),)

    min: Annotated[int, Field(ge=0, le=100_000, description="Replicas that are always kept.")] = 1
    max: Annotated[int, Field(ge=0, le=100_000, description="Replicas that are never exceeded.")] = 1
