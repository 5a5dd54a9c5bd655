"""A real Kubernetes node on this machine: control plane, containerd, kubelet, kube-proxy, DNS, and Shoal's own images.

Needs root, and leaves nothing behind: everything runs inside one `unshare`, and `traces` undoes what gets out of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from e2e.providers.base import Cluster, Feature, Json
from e2e.providers.chart import VALUES, Helm
from e2e.providers.daemons import Daemons
from e2e.providers.examples import ROOT, ensure_model
from e2e.providers.full_node import isolation, network, traces
from e2e.providers.full_node.control_plane import ControlPlane
from e2e.providers.full_node.node import Node
from e2e.providers.full_node.pause import write_pause_image
from e2e.providers.full_node.runtime import PAUSE_IMAGE, Runtime
from e2e.providers.programs import ProgramsMissingError, find_programs
from e2e.providers.volume import EXAMPLE, MODELS, host_volume

NEEDED = ("kube-apiserver", "etcd", "kubectl", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy",
          "coredns", "helm")  # fmt: skip
TAG = "e2e"
PREFIX = "localhost/shoal"
ARCHIVES = "SHOAL_E2E_IMAGES"
"""A folder with image archives that are there already; they are built without it."""
STATE = "SHOAL_E2E_STATE"
"""The folder of everything that the cluster writes."""
BUILD = ROOT / "build" / "e2e"
"""What is built stays, so that the next run builds what has changed alone."""


class FullNodeProvider:
    """One node, for the block."""

    name = "full-node"

    def unavailable(self) -> str | None:
        """It needs root, container tools and Kubernetes' programs."""
        try:
            programs = find_programs()
        except ProgramsMissingError as error:
            return str(error)
        absent = [name for name in NEEDED if not os.access(programs / name, os.X_OK)]
        if absent:
            return f"{programs} has no {', '.join(absent)}"
        return isolation.missing()

    @contextmanager
    def prepared(self) -> Iterator[Mapping[str, str]]:
        """Build the images: inside there is no network."""
        archives = os.environ.get(ARCHIVES) or str(build_images())
        # Short: containerd refuses long socket paths. Nothing in it is worth keeping.
        state = Path(tempfile.mkdtemp(prefix="shoal-node-"))
        with traces.undone():
            try:
                yield {ARCHIVES: archives, STATE: str(state)}
            finally:
                shutil.rmtree(state, ignore_errors=True)

    def command(self, argv: Sequence[str]) -> list[str]:
        """Inside namespaces of its own."""
        return list(argv) if isolation.inside() else isolation.command(argv)

    @contextmanager
    def cluster(self, folder: Path) -> Iterator[Cluster]:
        """The node with Shoal installed by its chart."""
        programs, daemons = find_programs(), Daemons(folder / "logs")
        state = Path(os.environ[STATE])
        try:
            network.prepare()
            control_plane = ControlPlane(programs, state / "control-plane", daemons)
            control_plane.start()
            runtime = Runtime(state / "containerd", daemons)
            runtime.start()
            load_images(runtime, folder)
            Node(programs, state / "node", daemons, control_plane, runtime).start()
            yield self._install(programs, control_plane, state)
        finally:
            daemons.stop()
            isolation.clear(state)

    def _install(self, programs: Path, control_plane: ControlPlane, state: Path) -> Cluster:
        shared = state / "shared"
        shared.mkdir()
        shutil.copytree(ensure_model(), shared / MODELS / EXAMPLE)
        helm = Helm(str(programs / "helm"), control_plane.kubeconfig)
        values: Json = {**VALUES, "image": {"prefix": PREFIX, "tag": TAG, "pullPolicy": "Never"}}
        cluster = Cluster(
            programs / "kubectl",
            control_plane.kubeconfig,
            frozenset(Feature),
            audit_log=control_plane.audit_log,
            helm_values=values,
            helm=helm,
        )
        cluster.storage, cluster.model = host_volume(cluster, shared, shared)
        helm.upgrade(values)
        return cluster


def load_images(runtime: Runtime, folder: Path) -> None:
    """Hand the images to the runtime."""
    folder.mkdir(parents=True, exist_ok=True)
    pause = folder / "pause.tar"
    write_pause_image(PAUSE_IMAGE, pause)
    for archive in (pause, *sorted(Path(os.environ[ARCHIVES]).glob("*.tar"))):
        runtime.load(archive)


def build_images() -> Path:
    """Build Shoal's images; the folder of their archive. Raises CalledProcessError when it fails."""
    output = BUILD / "archives"
    build = [sys.executable, "-m", "images", "build", "--tool", "buildah", "--prefix", PREFIX, "--tag", TAG]
    build += ["--base", "mmdebstrap", "--accelerator", "cpu", "--output", str(output)]
    build += ["--storage", str(BUILD / "storage"), "--storage-driver", "overlay"]
    subprocess.run(build, check=True, cwd=ROOT)
    return output
