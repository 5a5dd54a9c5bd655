"""Volumes: the shared one of a job, and the one that holds a model's original weights."""

from typing import Any

from shoal.api.v1alpha1.common import ModelSpec, SharedStorage

Manifest = dict[str, Any]

SHARED_MOUNT = "/var/lib/shoal"
MODEL_MOUNT = "/var/lib/shoal-model"


def shared_volume(storage: SharedStorage | None) -> tuple[list[Manifest], list[Manifest]]:
    """Volumes and mounts of the shared storage; two empty lists without one."""
    if storage is None:
        return [], []
    if storage.host_path is not None:
        source: Manifest = {"hostPath": {"path": storage.host_path.path, "type": "DirectoryOrCreate"}}
    elif storage.persistent_volume_claim is not None:
        source = {"persistentVolumeClaim": {"claimName": storage.persistent_volume_claim.claim_name}}
    else:
        raise ValueError("storage: exactly one of hostPath and persistentVolumeClaim must be set")
    return [{"name": "shared", **source}], [{"name": "shared", "mountPath": SHARED_MOUNT}]


def model_volume(model: ModelSpec) -> tuple[str, list[Manifest], list[Manifest]]:
    """The model's path or hub name inside a pod, and the volumes and mounts that make it so."""
    scheme, _, rest = model.source.partition(":")
    if scheme == "hf":
        return rest, [], []
    mount = {"name": "model", "mountPath": MODEL_MOUNT, "readOnly": True}
    if scheme == "pvc":
        claim, _, path = rest.partition("/")
        source: Manifest = {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        return f"{MODEL_MOUNT}/{path}".rstrip("/"), [{"name": "model", **source}], [mount]
    return MODEL_MOUNT, [{"name": "model", "hostPath": {"path": rest, "type": "Directory"}}], [mount]
