"""kind: a cluster in containers of Docker or podman, for users' machines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import yaml

from e2e.providers.base import Cluster, ClusterError, Feature, Json
from e2e.providers.chart import VALUES, Helm
from e2e.providers.examples import ROOT, ensure_model
from e2e.providers.volume import EXAMPLE, MODELS, host_volume

NAME = "shoal-e2e"
MOUNT = "/shoal"
"""Where the machine's folder of models and data appears in kind's node."""


class KindProvider:
    """A kind cluster for the block; its images are built here with the tool that kind uses."""

    name = "kind"

    def unavailable(self) -> str | None:
        """It needs kind and a container engine that answers."""
        absent = [tool for tool in ("kind", "kubectl", "helm") if shutil.which(tool) is None]
        if absent:
            return f"not installed: {', '.join(absent)}"
        engine = self._engine()
        if shutil.which(engine) is None:
            return f"not installed: {engine}"
        answers = subprocess.run([engine, "info"], capture_output=True, check=False).returncode == 0
        return None if answers else f"{engine} does not answer"

    def prepared(self) -> AbstractContextManager[Mapping[str, str]]:
        """Nothing."""
        return nullcontext({})

    def command(self, argv: Sequence[str]) -> list[str]:
        """As it is."""
        return list(argv)

    @contextmanager
    def cluster(self, folder: Path) -> Iterator[Cluster]:
        """Build the images, create the cluster, load them, install the chart."""
        shared = folder / "shared"
        shared.mkdir(parents=True)
        shutil.copytree(ensure_model(), shared / MODELS / EXAMPLE)
        images, kubeconfig = folder / "images", folder / "kubeconfig"
        build = [sys.executable, "-m", "images", "build", "--tool", self._engine(), "--tag", "e2e"]
        build += ["--accelerator", "cpu"]
        subprocess.run([*build, "--output", str(images)], check=True, cwd=ROOT)
        nodes = [{"role": "control-plane", "extraMounts": [{"hostPath": str(shared), "containerPath": MOUNT}]}]
        config = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": nodes}
        create = [
            "kind",
            "create",
            "cluster",
            f"--name={NAME}",
            f"--kubeconfig={kubeconfig}",
            "--config=-",
            "--wait=120s",
        ]
        there = subprocess.run(["kind", "get", "clusters"], capture_output=True, text=True, check=True).stdout.split()
        if NAME in there:
            raise ClusterError(f"a cluster of this name is there already: kind delete cluster --name {NAME}")
        try:
            subprocess.run(create, input=yaml.safe_dump(config), text=True, check=True)
            for archive in sorted(images.glob("*.tar")):
                subprocess.run(["kind", "load", "image-archive", f"--name={NAME}", str(archive)], check=True)
            values: Json = {**VALUES, "image": {"tag": "e2e", "pullPolicy": "Never"}}
            helm = Helm("helm", kubeconfig)
            cluster = Cluster("kubectl", kubeconfig, frozenset({Feature.CONTAINERS}), helm_values=values, helm=helm)
            cluster.storage, cluster.model = host_volume(cluster, shared, Path(MOUNT))
            helm.upgrade(values)
            yield cluster
        finally:
            subprocess.run(["kind", "delete", "cluster", f"--name={NAME}"], check=False)

    def _engine(self) -> str:
        return os.environ.get("KIND_EXPERIMENTAL_PROVIDER", "docker")
