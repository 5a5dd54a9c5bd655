"""A folder of the node as a volume that restricted pods may use: they may not mount it themselves, but claim it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from e2e.providers.base import Cluster, Json

CLAIM = "shoal-e2e"
MODELS = "models"
EXAMPLE = "frozenlake"


def host_volume(cluster: Cluster, folder: Path, seen: Path) -> tuple[Callable[[str], Json], Callable[[str], str]]:
    """`Cluster.storage` and `Cluster.model` for a node that sees this machine's `folder` as `seen`.

    The example's model lies in its subfolder `models/frozenlake`.
    """

    def storage(namespace: str) -> Json:
        shared = folder / namespace
        shared.mkdir(exist_ok=True)
        # A pod's user is not the one who made it; Kubernetes changes the owner of other volumes, not of host folders.
        shared.chmod(0o777)
        _claim(cluster, namespace, CLAIM, seen / namespace)
        return {"persistentVolumeClaim": {"claimName": CLAIM}}

    def model(namespace: str) -> str:
        _claim(cluster, namespace, f"{CLAIM}-model", seen / MODELS)
        return f"pvc:{CLAIM}-model/{EXAMPLE}"

    return storage, model


def _claim(cluster: Cluster, namespace: str, name: str, path: Path) -> None:
    common: Json = {
        "storageClassName": "",
        "accessModes": ["ReadWriteMany"],
    }
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{name}"},
        "spec": {
            **common,
            "capacity": {"storage": "2Gi"},
            "hostPath": {"path": str(path)},
            "claimRef": {"namespace": namespace, "name": name},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**common, "volumeName": f"{namespace}-{name}", "resources": {"requests": {"storage": "2Gi"}}},
    }
    cluster.apply(volume, claim)
    # A pod that is made before counts as unschedulable for a moment, and its resource says so.
    cluster.kubectl("-n", namespace, "wait", "--for=jsonpath={.status.phase}=Bound", f"pvc/{name}", "--timeout=60s")
