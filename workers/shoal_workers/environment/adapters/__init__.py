"""Adapters for environment libraries, found by protocol name.

The built-in ones are OpenEnv, Gymnasium and TextArena. A package's own is `package:Name` in a manifest: `Name` is an
entry point of the distribution `package` in the group `shoal.environments`, or stands in the module `package`. Its
object is a function `(EnvironmentSource) -> Backend`. Only the library that is used is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points

from shoal.api.services.roles.environment import EnvironmentSource
from shoal_workers.environment.adapter import Backend
from shoal_workers.service.config import ConfigurationError
from shoal_workers.strategies.registry import find

GROUP = "shoal.environments"
PATH = "environment.protocol"
_PACKAGE = "shoal_workers.environment.adapters"
_BUILT_IN = {"OpenEnv": "openenv", "Gymnasium": "gymnasium", "TextArena": "textarena"}


def protocols() -> list[str]:
    """The names of all adapters there are."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def resolve(source: EnvironmentSource) -> Backend:
    """The configured adapter; raises ConfigurationError naming the wrong field."""
    module = _BUILT_IN.get(source.protocol)
    if module is not None:
        backend: Callable[[EnvironmentSource], Backend] = importlib.import_module(f"{_PACKAGE}.{module}").backend
        return backend(source)
    if ":" not in source.protocol and source.protocol not in protocols():
        known = f"{', '.join(protocols())}; your own is named package:Name"
        raise ConfigurationError(PATH, f"there is no adapter {source.protocol!r}; there are: {known}")
    point = find(GROUP, source.protocol, PATH)
    try:
        own: object = point.load()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(PATH, f"{point.value}: {error}") from None
    if not callable(own):
        raise ConfigurationError(PATH, f"{point.value} is no function of the environment's source")
    made = own(source)
    if not isinstance(made, Backend):
        raise ConfigurationError(PATH, f"{point.value} did not give a Backend but {type(made).__name__}")
    return made
