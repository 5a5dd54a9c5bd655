"""Adapters for environment libraries, found by protocol name.

The built-in ones are OpenEnv, Gymnasium and TextArena. A package adds its own by an entry point in the group
`shoal.environments`: the name is the protocol, the object a function `(EnvironmentSource) -> Backend`. Only the library
that is used is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points

from shoal.api.services.roles.environment import EnvironmentSource
from shoal_workers.environment.adapter import Backend
from shoal_workers.service.config import ConfigurationError

GROUP = "shoal.environments"
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
    for point in entry_points(group=GROUP):
        if point.name == source.protocol:
            made = point.load()(source)
            if not isinstance(made, Backend):
                cause = f"{point.value} did not give a Backend but {type(made).__name__}"
                raise ConfigurationError("environment.protocol", cause)
            return made
    known = ", ".join(protocols())
    raise ConfigurationError("environment.protocol", f"there is no adapter {source.protocol!r}; there are: {known}")
