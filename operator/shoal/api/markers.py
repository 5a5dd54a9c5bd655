"""Marks on resource models that say what pydantic cannot: CEL rules, list keys, printer columns, subresources.

Field marks stand inside `Annotated[...]`; `cel` (a class variable of any model) holds rules of a whole object;
`resource` (a class variable of a kind) names the kind. The generator in `shoal.crdgen` turns them into the schema of
crds/.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cel:
    """An `x-kubernetes-validations` rule."""

    rule: str
    message: str
    reason: str | None = None
    field_path: str | None = None


@dataclass(frozen=True, init=False)
class ListMap:
    """The list is a map by these keys."""

    keys: tuple[str, ...]

    def __init__(self, *keys: str) -> None:
        object.__setattr__(self, "keys", keys)


@dataclass(frozen=True)
class ListSet:
    """The list is a set of scalars."""


@dataclass(frozen=True)
class Atomic:
    """The list or map is replaced as a whole."""


@dataclass(frozen=True)
class PreserveUnknown:
    """An object whose fields the schema does not know."""


@dataclass(frozen=True)
class StrategyGroup:
    """The entry-point group that a field's strategies belong to."""

    name: str


@dataclass(frozen=True)
class IntOrString:
    """A number, not below `minimum`, or text that matches `pattern`."""

    minimum: int
    pattern: str


@dataclass(frozen=True)
class Column:
    """A printer column of `kubectl get`."""

    name: str
    json_path: str
    type: str = "string"
    priority: int = 0
    description: str | None = None


@dataclass(frozen=True)
class Scale:
    """The scale subresource."""

    spec_path: str
    status_path: str
    selector_path: str | None = None


@dataclass(frozen=True)
class Resource:
    """A kind, as a CustomResourceDefinition names it."""

    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    scale: Scale | None = None


def immutable(name: str) -> Cel:
    """The rule that a field keeps its first value."""
    return Cel("self == oldSelf", f"{name} is immutable")
