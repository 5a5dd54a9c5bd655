"""Reads what is stored of a resource, also where it was stored under a schema that it no longer fits."""

import logging
from typing import Any, TypeVar

from pydantic import ValidationError

from shoal.api.base import Condition, StatusModel

Json = dict[str, Any]
S = TypeVar("S", bound=StatusModel)
log = logging.getLogger(__name__)


def read_status(model: type[S], stored: Json) -> S:
    """The status, without the fields that do not fit: what is observed now takes their place.

    A status is the operator's own record. A job must not stop, or begin anew, for a part of it that another version
    wrote in another form.
    """
    rest = {**stored}
    if isinstance(rest.get("conditions"), list):
        rest["conditions"] = [each.to_json() for each in read_conditions(stored)]
    while True:
        try:
            return model.model_validate(rest)
        except ValidationError as error:
            wrong = {str(each["loc"][0]) for each in error.errors() if each["loc"]} & rest.keys()
            if not wrong:
                return model()
            log.debug("passing over status fields %s", ", ".join(sorted(wrong)))
            rest = {name: value for name, value in rest.items() if name not in wrong}


def read_conditions(stored: Json) -> list[Condition]:
    """The conditions in a status that can be read."""
    found = stored.get("conditions")
    return [read for each in found for read in _condition(each)] if isinstance(found, list) else []


def _condition(stored: Any) -> list[Condition]:
    try:
        return [Condition.model_validate(stored)]
    except ValidationError:
        return []


def part(body: Any, *path: str) -> Json:
    """The mapping at a path inside an object; an empty one where something else, or nothing, stands there."""
    for name in path:
        body = body.get(name) if isinstance(body, dict) else None
    return body if isinstance(body, dict) else {}


def parts(body: Json, *path: str) -> list[Json]:
    """As `part`, for a list of mappings."""
    found = part(body, *path[:-1]).get(path[-1])
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
