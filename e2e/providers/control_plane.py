"""An API server with the embedded node, as `shoal up` starts it: pods are processes of this machine.

`embedded` is Shoal's own API server; `kube-apiserver` is the real one with etcd, from the folder that
KUBEBUILDER_ASSETS names, or the one beside the checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from e2e.providers.base import Cluster, ClusterError, Feature
from e2e.providers.examples import ensure_model
from e2e.providers.programs import ProgramsMissingError, find_programs


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

    def prepared(self) -> AbstractContextManager[Mapping[str, str]]:
        """Nothing."""
        return nullcontext({})

    def command(self, argv: Sequence[str]) -> list[str]:
        """As it is."""
        return list(argv)

    @contextmanager
    def cluster(self, folder: Path) -> Iterator[Cluster]:
        """`shoal up` in a folder of its own."""
        kubectl, model = self._kubectl(), ensure_model()
        state = folder / "state"
        self._shoal("up", "--state-dir", str(state), "--control-plane", self.name)
        try:
            yield Cluster(
                kubectl,
                state / "kubeconfig",
                frozenset({Feature.PROCESSES}),
                storage=lambda namespace: {"hostPath": {"path": str(folder / "data" / namespace)}},
                model=lambda _: f"file:{model}",
            )
        finally:
            self._shoal("down", "--state-dir", str(state))

    def _shoal(self, *args: str) -> None:
        command = [sys.executable, "-m", "shoal.cli.main", *args]
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"shoal {' '.join(args)}: {done.stderr.strip()}")

    def _kubectl(self) -> str:
        if self.name == "kube-apiserver":
            return str(find_programs() / "kubectl")
        found = shutil.which("kubectl")
        return found or str(find_programs() / "kubectl")

    def _environment(self) -> Mapping[str, str]:
        if self.name != "kube-apiserver":
            return os.environ
        return {**os.environ, "KUBEBUILDER_ASSETS": str(find_programs())}
