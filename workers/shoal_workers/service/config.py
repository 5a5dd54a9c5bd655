"""A role's start-up configuration: read once from the environment, refused with one clear line."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from shoal.api.labels import CONFIG_FOLDER_VARIABLE, CONFIG_VARIABLE

# Not this package's own, so that what serves nothing can refuse a configuration without the libraries of a service.
from shoal_workers.configuration import ConfigurationError as ConfigurationError
from shoal_workers.configuration import from_validation as from_validation

TERMINATION_LOG_VARIABLE = "SHOAL_TERMINATION_LOG"
KUBERNETES_TERMINATION_LOG = "/dev/termination-log"

ConfigT = TypeVar("ConfigT", bound=BaseModel)


@dataclass(frozen=True)
class Identity:
    """Which pod this process is, from the downward API."""

    name: str
    namespace: str
    ip: str
    uid: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Identity:
        """The pod of the process; outside a pod, this machine's name on the loopback address."""
        return cls(
            name=environment.get("POD_NAME") or socket.gethostname().lower(),
            namespace=environment.get("POD_NAMESPACE") or "default",
            ip=environment.get("POD_IP") or "127.0.0.1",
            uid=environment.get("POD_UID", ""),
        )


def load_config(model: type[ConfigT], environment: Mapping[str, str] = os.environ) -> ConfigT:
    """The role's configuration from SHOAL_CONFIG; raises ConfigurationError naming the first wrong field."""
    folder = environment.get(CONFIG_FOLDER_VARIABLE)
    text = _from_files(Path(folder), environment) if folder else environment.get(CONFIG_VARIABLE)
    if not text:
        raise ConfigurationError(CONFIG_VARIABLE, "the variable is not set; it holds the role's configuration as JSON")
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise from_validation(error, CONFIG_VARIABLE) from None


def _from_files(folder: Path, environment: Mapping[str, str]) -> str:
    """The files of the folder in order of their names, as one text."""
    try:
        # A volume of Kubernetes has links to a folder of its own beside the files.
        files = sorted(each for each in folder.iterdir() if each.is_file())
        text = b"".join(each.read_bytes() for each in files).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(CONFIG_FOLDER_VARIABLE, str(error)) from None
    # Kubernetes expands this in a variable, and not in a file.
    return text.replace("$(POD_IP)", environment.get("POD_IP", ""))


def write_termination_message(message: str, environment: Mapping[str, str] = os.environ) -> None:
    """Leave the last words where Kubernetes, or the embedded node, reads them; silently nothing where neither is."""
    path = Path(environment.get(TERMINATION_LOG_VARIABLE) or KUBERNETES_TERMINATION_LOG)
    explicit = TERMINATION_LOG_VARIABLE in environment
    if not explicit and not path.exists():
        return
    try:
        path.write_text(message[:4096])
    except OSError:
        return
