"""Adapter configuration: what the user writes under `environment.config`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from shoal.api.services.roles.environmentconfig import Settings
from shoal_workers.environment.render import Template, TemplateError
from shoal_workers.service.config import ConfigurationError, from_validation

SettingsT = TypeVar("SettingsT", bound=Settings)

CONFIG_PATH = "environment.config"
ENTRYPOINT_PATH = "environment.entrypoint"


def parse(model: type[SettingsT], config: Mapping[str, Any]) -> SettingsT:
    """The settings; raises ConfigurationError with the path of the first wrong field."""
    try:
        return model.model_validate(config)
    except ValidationError as error:
        raise from_validation(error, CONFIG_PATH) from None


def check_templates(shown: Any) -> None:
    """Raise ConfigurationError for a `template` or `first` of observation settings that is not one."""
    for name in ("template", "first"):
        text = getattr(shown, name)
        try:
            if text is not None:
                Template(text)
        except TemplateError as error:
            raise ConfigurationError(f"{CONFIG_PATH}.observation.{name}", str(error)) from None
