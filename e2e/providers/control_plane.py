"""An API server with the embedded node, as `shoal up` starts it: pods are processes of this machine.

`embedded` is Shoal's own API server; `kube-apiserver` is the real one with etcd, from the folder that
KUBEBUILDER_ASSETS names, or the one beside the checkout.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from e2e.providers.base import Cluster
from e2e.providers.daemons import Daemons
from e2e.providers.examples import ensure_model
from e2e.providers.programs import ProgramsMissingError, find_programs

START_SECONDS = 120.0


class ControlPlaneProvider:
    """`shoal up`, with one of its two control planes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def unavailable(self) -> str | None:
        """The real servers need their programs; both need kubectl."""
        try:
            self._kubectl()
        except ProgramsMissingError as error:
            return str(error)
        return None

    def command(self, argv: Sequence[str]) -> list[str]:
        """As it is."""
        return list(argv)

    @contextmanager
    def cluster(self, folder: Path) -> Iterator[Cluster]:
        """`shoal up` in a folder of its own."""
        kubectl, model = self._kubectl(), ensure_model()
        state, daemons = folder / "state", Daemons(folder / "logs")
        command = [sys.executable, "-m", "shoal.cli.main", "up", "--state-dir", str(state)]
        try:
            daemons.start("shoal-up", [*command, "--control-plane", self.name], env=self._environment())
            kubeconfig = state / "kubeconfig"
            cluster = Cluster(
                kubectl,
                kubeconfig,
                storage=lambda namespace: {"hostPath": {"path": str(folder / "data" / namespace)}},
                model=lambda _: f"file:{model}",
            )
            ready = "jsonpath={.items[0].status.conditions[?(@.type=='Ready')].status}"
            daemons.until(
                lambda: kubeconfig.exists() and cluster.kubectl("get", "nodes", "-o", ready, check=False) == "True",
                "shoal up gives a node",
                START_SECONDS,
            )
            yield cluster
        finally:
            daemons.stop(seconds=30)

    def _kubectl(self) -> str:
        if self.name == "kube-apiserver":
            return str(find_programs() / "kubectl")
        found = shutil.which("kubectl")
        return found or str(find_programs() / "kubectl")

    def _environment(self) -> Mapping[str, str]:
        if self.name != "kube-apiserver":
            return os.environ
        return {**os.environ, "KUBEBUILDER_ASSETS": str(find_programs())}
