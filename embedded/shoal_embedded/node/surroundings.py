"""What every pod of the node shares."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shoal.kube.client import KubeClient
from shoal_embedded.node.decide import BackoffPolicy
from shoal_embedded.node.rewriting import ServiceAddress
from shoal_embedded.node.variables import Objects
from shoal_embedded.node.volumes import VolumeSources

NODE_MARK = "SHOAL_NODE"
POD_MARK = "SHOAL_POD_UID"
CONTAINER_MARK = "SHOAL_CONTAINER"
ATTEMPT_MARK = "SHOAL_ATTEMPT"
"""Environment variables of every process of a container, by which it is found when its family tree is lost."""
PLANE_MARK = "SHOAL_PLANE"
"""The control plane's state folder; set by the supervisor and handed down."""

_PRIVATE = ("KUBECONFIG", "KUBERNETES_", "SHOAL_", "PYTHONSTARTUP", "INVOCATION_ID", "NOTIFY_SOCKET")


class Events(Protocol):
    """Takes Kubernetes Events about pods."""

    async def record(self, about: Mapping[str, str], level: str, reason: str, message: str) -> None:
        """Record one: `level` is Normal or Warning."""
        ...


@dataclass(frozen=True)
class Surroundings:
    """The node as its pods see it. `capacity`: resource name -> amount."""

    folder: Path
    node_name: str
    host_ip: str
    boot: str
    capacity: Mapping[str, float]
    base_variables: Mapping[str, str]
    client: KubeClient
    events: Events
    objects: Objects
    volume_sources: VolumeSources
    service_address: ServiceAddress
    backoff: BackoffPolicy
    on_change: Callable[[], None]
    """Called when a pod's readiness changes."""


def base_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what an image would bring: the node's environment without what concerns the node alone.

    The folder of the node's interpreter comes first in PATH, so that the programs installed beside it are found.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith(_PRIVATE)}
    if PLANE_MARK in environ:
        kept[PLANE_MARK] = environ[PLANE_MARK]
    programs = str(Path(sys.executable).parent)
    rest = [part for part in kept.get("PATH", os.defpath).split(os.pathsep) if part and part != programs]
    # Output must reach the log when it is written, not when a buffer is full.
    return {**kept, "PATH": os.pathsep.join([programs, *rest]), "PYTHONUNBUFFERED": "1"}
