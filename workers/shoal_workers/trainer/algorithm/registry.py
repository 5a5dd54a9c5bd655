"""Named strategies: found by name, built from the manifest's parameters, extended by entry points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from shoal_workers.service.config import ConfigurationError, from_validation


class Strategy(BaseModel):
    """Base of every strategy: its fields are its parameters, written in camelCase in manifests."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, protected_namespaces=()
    )


StrategyT = TypeVar("StrategyT", bound=Strategy)


class Registry(Generic[StrategyT]):
    """The strategies of one part of the learning rule.

    `part` is the part's field name under `algorithm`. Other distributions add strategies by an entry point in the group
    `shoal.trainer.<part>`, whose name is the strategy's name and whose object is a subclass of the part's interface.
    """

    def __init__(self, part: str, interface: type[StrategyT]) -> None:
        self.part = part
        self._interface = interface
        self._known: dict[str, type[StrategyT]] = {}

    def register(self, name: str) -> Callable[[type[StrategyT]], type[StrategyT]]:
        """Class decorator: from now on `name` means this class."""

        def add(strategy: type[StrategyT]) -> type[StrategyT]:
            if name in self._known:
                raise ValueError(f"{self.part} {name!r} is registered twice")
            self._known[name] = strategy
            return strategy

        return add

    def names(self) -> list[str]:
        """All names, those of entry points included."""
        return sorted({*self._known, *(point.name for point in entry_points(group=self._group))})

    def create(self, name: str, parameters: Mapping[str, Any]) -> StrategyT:
        """The strategy with these parameters; raises ConfigurationError naming the wrong field."""
        path = f"algorithm.{self.part}"
        strategy = self._known.get(name) or self._load(name, path)
        try:
            return strategy.model_validate(dict(parameters))
        except ValidationError as error:
            raise from_validation(error, f"{path}.parameters") from None

    @property
    def _group(self) -> str:
        return f"shoal.trainer.{self.part}"

    def _load(self, name: str, path: str) -> type[StrategyT]:
        for point in entry_points(group=self._group, name=name):
            loaded = point.load()
            if not (isinstance(loaded, type) and issubclass(loaded, self._interface)):
                raise ConfigurationError(f"{path}.name", f"{point.value} is no {self._interface.__name__}")
            return loaded
        raise ConfigurationError(f"{path}.name", f"{name!r} is not known; there are: {', '.join(self.names())}")
