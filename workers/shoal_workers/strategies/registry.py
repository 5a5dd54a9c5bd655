"""Named strategies: found by their entry points, built from the manifest's parameters.

Shoal's own strategies are entry points like anybody else's (they stand in pyproject.toml), so a name can be checked
without importing what computes with it. A manifest names a strategy of another distribution as `package:Name`: `Name`
is an entry point of the distribution `package`, or a class in the importable module `package`.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from shoal.api.services.common import StrategyConfig
from shoal_workers.configuration import ConfigurationError, from_validation


class NamedStrategy(BaseModel):
    """Base of every strategy: its fields are its parameters, written in camelCase in manifests."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, protected_namespaces=()
    )


StrategyT = TypeVar("StrategyT", bound=NamedStrategy)


class Registry(Generic[StrategyT]):
    """The strategies for one decision.

    Args:
        group: entry-point group, such as `shoal.trainer.advantage`; an entry point's name is the strategy's name and
            its object a subclass of `interface`.
        path: where the manifest names the strategy, such as `algorithm.advantage`; errors name it.
        interface: the class that every strategy of the group extends.
    """

    # type[Any], because interfaces are abstract, and mypy takes type[StrategyT] for something that is called.
    def __init__(self, group: str, path: str, interface: type[Any]) -> None:
        self.group = group
        self.path = path
        self._interface = interface

    def names(self) -> list[str]:
        """The names of all strategies that are installed."""
        return names(self.group)

    def build(self, config: StrategyConfig, path: str = "") -> StrategyT:
        """The configured strategy; `path` replaces the registry's own, as for one item of a list."""
        return self.create(config.name, config.parameters, path)

    def create(self, name: str, parameters: Mapping[str, Any], path: str = "") -> StrategyT:
        """The strategy with these parameters; raises ConfigurationError naming the wrong field."""
        path = path or self.path
        point = find(self.group, name, path)
        strategy: Any = _load(point, path)
        if not (isinstance(strategy, type) and issubclass(strategy, self._interface)):
            raise ConfigurationError(f"{path}.name", f"{point.value} is no {self._interface.__name__}")
        try:
            built: StrategyT = strategy.model_validate(dict(parameters))  # type: ignore[attr-defined]
        except ValidationError as error:
            known = ", ".join(sorted(_parameter_names(strategy))) or "none"
            wrong = from_validation(error, f"{path}.parameters")
            raise ConfigurationError(wrong.field, f"{wrong.cause}; parameters of {name}: {known}") from None
        return built


def names(group: str) -> list[str]:
    """The names of all strategies of a group that are installed."""
    return sorted({point.name for point in _points(group)})


def check(config: StrategyConfig, group: str, path: str) -> None:
    """Raise ConfigurationError for a name that nothing stands for; imports no strategy, so it takes no time."""
    find(group, config.name, path)


def find(group: str, name: str, path: str) -> EntryPoint:
    """Where the strategy is; raises ConfigurationError that names those there are."""
    for point in _points(group, name):
        return point
    package, colon, own = name.partition(":")
    for point in _points(group, own) if colon else ():
        if point.dist is not None and _normal(point.dist.name) == _normal(package):
            return point
    if colon and own:
        return EntryPoint(name=name, value=name, group=group)
    raise ConfigurationError(
        f"{path}.name",
        f"{name!r} is not known; there are: {', '.join(names(group))}; your own is named package:Name",
    )


def _points(group: str, name: str | None = None) -> list[EntryPoint]:
    """The installed entry points of a group, or those of one name in it."""
    return [point for point in _installed(group, tuple(sys.path)) if name in (None, point.name)]


# Each look reads a file of every installed distribution, and a job looks up several strategies whenever it opens.
@cache
def _installed(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Read once for each import path: `path` is the key alone."""
    return tuple(entry_points(group=group))


def _load(point: EntryPoint, path: str) -> object:
    """The object; raises ConfigurationError with the cause where its module or class cannot be had."""
    try:
        importlib.import_module(point.module)
        return point.load()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"{path}.name", f"{point.value}: {error}") from None


def _parameter_names(strategy: type[NamedStrategy]) -> list[str]:
    return [field.alias or name for name, field in strategy.model_fields.items()]


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
