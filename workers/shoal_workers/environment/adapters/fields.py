"""Named fields of an observation, and the text made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shoal.api.services.roles.environmentconfig import ObservationSettings
from shoal_workers.environment.adapters.pictures import check_size, split
from shoal_workers.environment.render import Template, as_text, unravel


class Renderer:
    """Makes text and plain data of observations."""

    def __init__(self, settings: ObservationSettings) -> None:
        self._settings = settings
        self._template = Template(settings.template) if settings.template is not None else None
        self._first = Template(settings.first) if settings.first is not None else self._template

    def render(
        self, environment: Any, value: Any, *, turn: int, task: Mapping[str, Any], info: Mapping[str, Any]
    ) -> tuple[str, Any, dict[str, dict[str, str]]]:
        """The text, the observation as plain data (with its fields, where it has some), and its pictures by path.

        Raises TemplateError for a template that does not fit, and for what is too large to be text.
        """
        pictures: dict[str, dict[str, str]] = {}
        if self._settings.images:
            value, pictures = split(value)
        data = plain(value)
        fields = self._fields(environment, data)
        template = self._first if turn == 0 else self._template
        if template is not None:
            return (
                template.fill({"observation": data, **fields, "turn": turn, "task": task, "info": info}),
                data,
                pictures,
            )
        if not fields or isinstance(value, Mapping):
            check_size(value)
        return self._written_out(fields, data, pictures), data, pictures

    def _fields(self, environment: Any, data: Any) -> dict[str, Any]:
        settings = self._settings
        fields: dict[str, Any] = dict(data) if isinstance(data, Mapping) else {}
        if settings.names:
            numbers = unravel(data, settings.shape) if settings.shape else data
            if not isinstance(numbers, Sequence) or len(numbers) != len(settings.names):
                raise ValueError(f"names has {len(settings.names)} entries, the observation is {data!r}")
            fields.update(zip(settings.names, numbers, strict=True))
        for name, labels in settings.labels.items():
            if name in fields:
                fields[name] = labels[int(fields[name])]
        for name, path in settings.attributes.items():
            fields[name] = _attribute(environment, path)
        return fields

    def _written_out(self, fields: Mapping[str, Any], data: Any, pictures: Mapping[str, Any]) -> str:
        if data is None and pictures:
            return ""
        if not fields or isinstance(data, str):
            return as_text(self._rounded(data))
        return " ".join(f"{name} {as_text(self._rounded(value))}" for name, value in fields.items())

    def _rounded(self, value: Any) -> Any:
        if isinstance(value, float):
            return round(value, self._settings.precision)
        return [self._rounded(item) for item in value] if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """An observation as Python's own types: numpy arrays become lists, numpy scalars numbers."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    tolist = getattr(value, "tolist", None)
    return tolist() if callable(tolist) else value


def _attribute(environment: Any, path: str) -> Any:
    target = getattr(environment, "unwrapped", environment)
    for name in path.split("."):
        target = getattr(target, name)
    return grid_text(plain(target() if callable(target) else target))


def grid_text(value: Any) -> Any:
    """A two-dimensional array of characters as lines of text; anything else as it is."""
    if isinstance(value, list) and value and all(isinstance(row, list) for row in value):
        rows = [[cell.decode() if isinstance(cell, bytes) else cell for cell in row] for row in value]
        if all(isinstance(cell, str) for row in rows for cell in row):
            return "\n".join("".join(row) for row in rows)
    return value
