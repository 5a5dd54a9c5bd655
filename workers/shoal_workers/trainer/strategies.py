"""Named strategies: found by their entry points, built from the manifest's parameters.

Shoal's own strategies are entry points like anybody else's (they stand in pyproject.toml), so a name can be checked
without importing what computes with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from shoal.api.services.roles.trainer import AlgorithmConfig
from shoal_workers.service.config import ConfigurationError, from_validation


class Strategy(BaseModel):
    """Base of every strategy: its fields are its parameters, written in camelCase in manifests."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, protected_namespaces=()
    )


StrategyT = TypeVar("StrategyT", bound=Strategy)


def check_names(config: AlgorithmConfig) -> None:
    """Raise ConfigurationError for a name that no entry point has; imports no strategy, so it takes no time."""
    for part in AlgorithmConfig.model_fields:
        find(part, getattr(config, part).name)


def names(part: str) -> list[str]:
    """The names of all strategies of this part of the learning rule."""
    return sorted({point.name for point in entry_points(group=_group(part))})


def find(part: str, name: str) -> EntryPoint:
    """Where the strategy is; raises ConfigurationError that names those there are."""
    for point in entry_points(group=_group(part), name=name):
        return point
    raise ConfigurationError(f"algorithm.{part}.name", f"{name!r} is not known; there are: {', '.join(names(part))}")


class Registry(Generic[StrategyT]):
    """The strategies of one part of the learning rule.

    `part` is the part's field name under `algorithm`. A distribution adds a strategy by an entry point in the group
    `shoal.trainer.<part>`, whose name is the strategy's name and whose object is a subclass of the part's interface.
    """

    def __init__(self, part: str, interface: type[StrategyT]) -> None:
        self.part = part
        self._interface = interface

    def names(self) -> list[str]:
        """The names of all strategies."""
        return names(self.part)

    def create(self, name: str, parameters: Mapping[str, Any]) -> StrategyT:
        """The strategy with these parameters; raises ConfigurationError naming the wrong field."""
        path = f"algorithm.{self.part}"
        point = find(self.part, name)
        strategy = point.load()
        if not (isinstance(strategy, type) and issubclass(strategy, self._interface)):
            raise ConfigurationError(f"{path}.name", f"{point.value} is no {self._interface.__name__}")
        try:
            return strategy.model_validate(dict(parameters))
        except ValidationError as error:
            raise from_validation(error, f"{path}.parameters") from None


def _group(part: str) -> str:
    return f"shoal.trainer.{part}"
