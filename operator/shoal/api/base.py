"""What every resource model is built from."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class ApiModel(BaseModel):
    """A part of a resource: camelCase in YAML, and a field it does not know is an error with that field's path."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", protected_namespaces=())

    def to_json(self) -> dict[str, Any]:
        """As the API server stores it: camelCase, without fields that are not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class StatusModel(ApiModel):
    """A part of a status: fields of a newer version are ignored."""

    model_config = ConfigDict(extra="ignore")


class Condition(StatusModel):
    """metav1.Condition."""

    type: Annotated[str, Field(description="What the condition is about, in CamelCase: one entry for each type.")]
    status: Annotated[str, Field(description="True, False, or Unknown while the operator cannot see it.")]
    reason: Annotated[
        str, Field(description="Why, in one CamelCase word for programs; docs/operations.md lists all of them.")
    ]
    message: Annotated[
        str,
        Field(
            description=(
                "Why, in words for people: which pod, which field, what to do. Empty where the reason says it all."
            )
        ),
    ] = ""
    observed_generation: Annotated[
        int, Field(description="Generation of the spec that the condition was decided for.")
    ] = 0
    last_transition_time: Annotated[
        str, Field(description="When `status` last changed; a new reason or message alone does not move it.")
    ]
