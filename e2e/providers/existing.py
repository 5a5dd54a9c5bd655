"""A cluster that is there already: named by a kubeconfig, with images that its nodes can pull.

SHOAL_E2E_KUBECONFIG names the kubeconfig; SHOAL_E2E_IMAGE_PREFIX and SHOAL_E2E_IMAGE_TAG the images (docs/images.md);
SHOAL_E2E_STORAGE_CLASS a storage class whose volumes several pods may mount (the default class when it is not set);
SHOAL_E2E_MODEL the example's model as `spec.model.source` has it, such as hf:NAME.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from e2e.providers.base import Cluster, ClusterError, Feature, Json
from e2e.providers.chart import NAMESPACE, RELEASE, VALUES, Helm

VARIABLES = ("SHOAL_E2E_KUBECONFIG", "SHOAL_E2E_IMAGE_PREFIX", "SHOAL_E2E_IMAGE_TAG", "SHOAL_E2E_MODEL")


class ExistingProvider:
    """Whatever the kubeconfig leads to. Shoal is installed by its chart and uninstalled afterwards."""

    name = "kubeconfig"

    def unavailable(self) -> str | None:
        """It has to be named."""
        unset = [name for name in VARIABLES if not os.environ.get(name)]
        if unset:
            return f"not set: {', '.join(unset)}"
        absent = [tool for tool in ("kubectl", "helm") if shutil.which(tool) is None]
        return f"not installed: {', '.join(absent)}" if absent else None

    def prepared(self) -> AbstractContextManager[Mapping[str, str]]:
        """Nothing."""
        return nullcontext({})

    def command(self, argv: Sequence[str]) -> list[str]:
        """As it is."""
        return list(argv)

    @contextmanager
    def cluster(self, folder: Path) -> Iterator[Cluster]:
        """The cluster with Shoal in it for the block."""
        kubeconfig = Path(os.environ["SHOAL_E2E_KUBECONFIG"])
        helm = Helm("helm", kubeconfig)
        values: Json = {
            **VALUES,
            "image": {"prefix": os.environ["SHOAL_E2E_IMAGE_PREFIX"], "tag": os.environ["SHOAL_E2E_IMAGE_TAG"]},
        }
        cluster = Cluster("kubectl", kubeconfig, frozenset({Feature.CONTAINERS}), helm_values=values, helm=helm)

        def storage(namespace: str) -> Json:
            cluster.apply(claim(namespace))
            return {"persistentVolumeClaim": {"claimName": "shoal-e2e"}}

        cluster.storage, cluster.model = storage, lambda _: os.environ["SHOAL_E2E_MODEL"]
        if helm.installed():
            raise ClusterError(f"release {RELEASE} in {NAMESPACE} is somebody's already: uninstall it first")
        try:
            helm.upgrade(values)
            yield cluster
        finally:
            helm("uninstall", RELEASE, "--wait", "--ignore-not-found")


def claim(namespace: str) -> Json:
    """A claim for the shared volume of a job."""
    spec: Json = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "2Gi"}}}
    if os.environ.get("SHOAL_E2E_STORAGE_CLASS"):
        spec["storageClassName"] = os.environ["SHOAL_E2E_STORAGE_CLASS"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "shoal-e2e", "namespace": namespace},
        "spec": spec,
    }
