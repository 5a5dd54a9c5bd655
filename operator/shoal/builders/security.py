"""What every built pod may not do: the `restricted` Pod Security Standard, and a root file system that stays as it is.

A user's template is laid over it, so an image that needs more can be given more; a namespace that enforces `restricted`
then refuses the pod.
"""

from typing import Any

from shoal.api.labels import Role

Manifest = dict[str, Any]

USER = 65532
"""The user and group of Shoal's images."""

POD_SECURITY: Manifest = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    # A shared volume has many files, and without this each start of a pod would change the owner of all of them.
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}

_SHARED_MEMORY_ROLES = frozenset({Role.ENGINE, Role.TRAINER})
"""Tensor-parallel workers and Ray's object store lie in /dev/shm; a runtime gives a container 64 MiB of it."""


def scratch_volumes(role: str) -> list[Manifest]:
    """What a pod may write to besides its own volumes; it is gone with the pod."""
    volumes: list[Manifest] = [{"name": "tmp", "emptyDir": {}}]
    if role in _SHARED_MEMORY_ROLES:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
    return volumes


def scratch_mounts(role: str) -> list[Manifest]:
    """Where a container sees the scratch volumes."""
    mounts: list[Manifest] = [{"name": "tmp", "mountPath": "/tmp"}]
    if role in _SHARED_MEMORY_ROLES:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    return mounts
