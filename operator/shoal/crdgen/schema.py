"""Resource models -> structural schemas (`openAPIV3Schema`).

A structural schema names a type at every node, uses no references and no logical junctors that declare anything, and
carries its defaults, so that the API server prunes and defaults objects. The models are walked directly rather than
through pydantic's JSON Schema, whose `$ref`, `const`, nullable `anyOf` and titles would all have to be undone.
"""

import types
from enum import Enum
from typing import Annotated, Any, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from shoal.api.markers import Atomic, Cel, IntOrString, ListMap, ListSet, PreserveUnknown, StrategyGroup

Json = dict[str, Any]


class SchemaError(TypeError):
    """A model that no structural schema can express; the message names the field."""


def schema_of(model: type[BaseModel], *, defaults: bool, path: str = "", seen: tuple[type, ...] = ()) -> Json:
    """The schema of a model.

    Args:
        model: the model.
        defaults: whether defaults and rules are written (a spec) or not (a status, which is never defaulted).
        path: where the model stands, for messages.
        seen: the models around it; one inside itself would never end.
    """
    if model in seen:
        raise SchemaError(f"{path}: {model.__name__} contains itself; a structural schema cannot")
    properties: Json = {}
    required: list[str] = []
    for name, info in model.model_fields.items():
        key = info.alias or name
        properties[key] = _field(info, defaults=defaults, path=f"{path}.{key}", seen=(*seen, model))
        if info.is_required():
            required.append(key)
    schema: Json = {"type": "object", "properties": properties}
    if model.__doc__:
        schema["description"] = " ".join(model.__doc__.split())
    if required:
        schema["required"] = required
    rules = getattr(model, "cel", ())
    if rules and defaults:
        schema["x-kubernetes-validations"] = [rule_of(rule) for rule in rules]
    return schema


def _field(info: FieldInfo, *, defaults: bool, path: str, seen: tuple[type, ...]) -> Json:
    schema = _type(info.annotation, list(info.metadata), defaults=defaults, path=path, seen=seen)
    description = info.description or _described(info.annotation)
    if description:
        schema["description"] = description
    if defaults:
        value = _default(info)
        if value is not PydanticUndefined:
            schema["default"] = value
    return schema


def _described(annotation: Any) -> str | None:
    """The description inside `Annotated[..., Field(description=...)] | None`, which pydantic leaves where it is."""
    marks = _unwrap(annotation, [], whole=True)[1]
    return next((mark.description for mark in marks if isinstance(mark, FieldInfo) and mark.description), None)


def _type(annotation: Any, marks: list[Any], *, defaults: bool, path: str, seen: tuple[type, ...]) -> Json:
    annotation, marks = _unwrap(annotation, marks)
    for mark in marks:
        if isinstance(mark, IntOrString):
            return {"x-kubernetes-int-or-string": True, "minimum": mark.minimum, "pattern": mark.pattern}
    if any(isinstance(mark, PreserveUnknown) for mark in marks):
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    origin = get_origin(annotation)
    if origin is list:
        (item,) = get_args(annotation)
        schema: Json = {"type": "array", "items": _type(item, [], defaults=defaults, path=f"{path}[]", seen=seen)}
    elif origin is dict:
        key, item = get_args(annotation)
        if key is not str:
            raise SchemaError(f"{path}: keys of a map must be strings, not {key}")
        schema = {
            "type": "object",
            "additionalProperties": _type(item, [], defaults=defaults, path=f"{path}{{}}", seen=seen),
        }
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        schema = schema_of(annotation, defaults=defaults, path=path, seen=seen)
    else:
        schema = _scalar(annotation, path)
    for mark in marks:
        _mark(schema, mark, path)
    return schema


def _unwrap(annotation: Any, marks: list[Any], *, whole: bool = False) -> tuple[Any, list[Any]]:
    """Take `Annotated` and `| None` off; Kubernetes expresses "not set" by absence.

    A `Field(...)` among the marks is kept as it is when `whole`, and taken apart into its constraints otherwise.
    """
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *more = get_args(annotation)
            for mark in more:
                marks += mark.metadata if isinstance(mark, FieldInfo) and not whole else [mark]
        elif origin in (Union, types.UnionType) and type(None) in get_args(annotation):
            rest = [each for each in get_args(annotation) if each is not type(None)]
            if len(rest) != 1:
                return annotation, marks
            (annotation,) = rest
        else:
            return annotation, marks


_SCALARS: dict[type, Json] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer", "format": "int64"},
}


def _scalar(annotation: Any, path: str) -> Json:
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        meaning = {"description": " ".join(annotation.__doc__.split())} if annotation.__doc__ else {}
        return {"type": "string", "enum": [member.value for member in annotation], **meaning}
    if annotation in _SCALARS:
        return dict(_SCALARS[annotation])
    raise SchemaError(
        f"{path}: {annotation!r} has no structural form (Kubernetes' API conventions allow no floating point either)"
    )


def _mark(schema: Json, mark: Any, path: str) -> None:
    """Write one mark or constraint into the schema."""
    match mark:
        case Cel():
            schema.setdefault("x-kubernetes-validations", []).append(rule_of(mark))
        case ListMap(keys=keys):
            schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}
        case ListSet():
            schema["x-kubernetes-list-type"] = "set"
        case Atomic():
            schema["x-kubernetes-list-type" if schema["type"] == "array" else "x-kubernetes-map-type"] = "atomic"
        case annotated_types.Ge(ge=bound):
            schema["minimum"] = bound
        case annotated_types.Le(le=bound):
            schema["maximum"] = bound
        case annotated_types.MinLen(min_length=length):
            schema["minItems" if schema["type"] == "array" else "minLength"] = length
        case annotated_types.MaxLen(max_length=length):
            schema["maxItems" if schema["type"] == "array" else "maxLength"] = length
        case StrategyGroup() | BeforeValidator():
            pass  # of names, which rules check, and of forms that a field had: the schema says nothing of either
        case _ if getattr(mark, "pattern", None):
            schema["pattern"] = mark.pattern
        case _:
            raise SchemaError(f"{path}: {mark!r} cannot be expressed")


def rule_of(rule: Cel) -> Json:
    """A rule as `x-kubernetes-validations` has it."""
    written = {"rule": rule.rule, "message": rule.message, "reason": rule.reason, "fieldPath": rule.field_path}
    return {key: value for key, value in written.items() if value is not None}


def _default(info: FieldInfo) -> Any:
    """The default as the API server writes it; undefined for None and empty collections, which absence says as well."""
    value = info.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined or value is None or value in ([], {}):
        return PydanticUndefined
    if isinstance(value, BaseModel):
        return _plain(value)
    if isinstance(value, list):
        return [_plain(item) if isinstance(item, BaseModel) else item for item in value]
    return value.value if isinstance(value, Enum) else value


def _plain(value: BaseModel) -> Json:
    """The whole value: the API server checks a default against the rules before it fills in what is missing in it."""
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)
