"""Adapter configuration: what the user writes under `environment.config`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from shoal_workers.service.config import from_validation

SettingsT = TypeVar("SettingsT", bound="Settings")

CONFIG_PATH = "environment.config"
ENTRYPOINT_PATH = "environment.entrypoint"


class Settings(BaseModel):
    """Base of every adapter's settings: camelCase as in manifests, unknown fields are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, protected_namespaces=()
    )


def parse(model: type[SettingsT], config: Mapping[str, Any]) -> SettingsT:
    """The settings; raises ConfigurationError with the path of the first wrong field."""
    try:
        return model.model_validate(config)
    except ValidationError as error:
        raise from_validation(error, CONFIG_PATH) from None
