"""Starts, watches and ends a whole control plane on this machine: API server, node and operator."""

from shoal_embedded.supervisor.detached import is_running, start_detached, stop_detached
from shoal_embedded.supervisor.errors import PlaneError, StateDirInUseError
from shoal_embedded.supervisor.plane import ControlPlane

__all__ = ["ControlPlane", "PlaneError", "StateDirInUseError", "is_running", "start_detached", "stop_detached"]
