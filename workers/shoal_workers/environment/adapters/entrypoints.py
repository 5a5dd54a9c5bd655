"""Finding what an entry point names."""

from __future__ import annotations

import importlib
import re
from typing import Any

from shoal_workers.environment.adapters.settings import ENTRYPOINT_PATH
from shoal_workers.service.config import ConfigurationError

_FACTORY = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")


def is_factory(entrypoint: str) -> bool:
    """Whether the entry point has the form `module:factory`."""
    return bool(_FACTORY.match(entrypoint))


def load(entrypoint: str, path: str = ENTRYPOINT_PATH) -> Any:
    """The object `module:name`; raises ConfigurationError when the module or the name is not there."""
    if not is_factory(entrypoint):
        raise ConfigurationError(path, f"{entrypoint!r} is not of the form module:name")
    module_name, _, attribute = entrypoint.partition(":")
    try:
        target: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigurationError(path, f"cannot import {module_name!r}: {type(error).__name__}: {error}") from None
    for name in attribute.split("."):
        try:
            target = getattr(target, name)
        except AttributeError:
            raise ConfigurationError(path, f"module {module_name!r} has no {attribute!r}") from None
    return target


def load_library(name: str, protocol: str) -> Any:
    """A library's module; raises ConfigurationError when it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        cause = f"{protocol} needs the package {name!r}, which cannot be imported: {error}"
        raise ConfigurationError("environment.protocol", cause) from None
