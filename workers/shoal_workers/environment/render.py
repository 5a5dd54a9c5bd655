"""Observations as text: a template over named fields."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

_FORMATTER = string.Formatter()


class TemplateError(ValueError):
    """A template that cannot be filled in."""


class Template:
    """A text with `{field}` places, in Python's format syntax: `row {row} column {column}`, `{angle:.2f}`, `{grid[0]}`.

    Raises TemplateError when the syntax is wrong, and from `fill` when a place names no field.
    """

    def __init__(self, text: str) -> None:
        try:
            parsed = list(_FORMATTER.parse(text))
        except ValueError as error:
            raise TemplateError(f"{text!r}: {error}") from None
        self.text = text
        self.fields = tuple(sorted({_root(name) for _, name, _, _ in parsed if name is not None}))

    def fill(self, fields: Mapping[str, Any]) -> str:
        """The text for these fields."""
        try:
            return _FORMATTER.vformat(self.text, (), fields)
        except KeyError as error:
            known = ", ".join(sorted(fields)) or "none"
            raise TemplateError(f"{self.text!r}: no field {error}; there are: {known}") from None
        except (ValueError, IndexError, AttributeError, TypeError) as error:
            raise TemplateError(f"{self.text!r}: {error}") from None


def _root(name: str) -> str:
    for index, character in enumerate(name):
        if character in ".[":
            return name[:index]
    return name


def as_text(value: Any) -> str:
    """A value for a model to read, where no template says how: text as it is, everything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("text"), str):
        return str(value["text"])
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS, default=str).decode()


def unravel(index: int, shape: Sequence[int]) -> list[int]:
    """The coordinates of a flat index in an array of `shape`, the last one changing fastest; raises ValueError."""
    coordinates = []
    rest = index
    for size in reversed(shape):
        coordinates.append(rest % size)
        rest //= size
    if rest or index < 0:
        raise ValueError(f"{index} is outside an array of shape {list(shape)}")
    return coordinates[::-1]
