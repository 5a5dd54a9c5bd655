"""Shoal in a cluster as a user installs it: the chart, with the images at hand."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from e2e.providers.base import ClusterError, Json
from e2e.providers.examples import ROOT

CHART = ROOT / "charts" / "shoal"
RELEASE = "shoal"
NAMESPACE = "shoal-system"
OVERLAP_SECONDS = 150
"""For how long renewed tokens and those before are taken: the kubelet refreshes Secrets every minute, and is late at
times."""
VALUES: Json = {"tokens": {"overlap": f"{OVERLAP_SECONDS // 60}m{OVERLAP_SECONDS % 60}s"}}
"""What all clusters of scenarios have in common."""


@dataclass(frozen=True)
class Helm:
    """helm for one cluster."""

    program: str
    kubeconfig: Path

    def __call__(self, *args: str) -> str:
        """Run helm; returns what it printed. Raises ClusterError with its complaint."""
        command = [self.program, f"--kubeconfig={self.kubeconfig}", f"--namespace={NAMESPACE}", *args]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"helm {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def installed(self) -> bool:
        """Whether the release is there."""
        return RELEASE in self("list", "--all", "--short").split()

    def upgrade(self, values: Json, chart: Path = CHART) -> None:
        """Install or upgrade; returns when the operator is ready."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(values, file)
            file.flush()
            self(
                "upgrade", RELEASE, str(chart), "--install", "--create-namespace", "--wait", "--timeout=180s",
                f"--values={file.name}",
            )  # fmt: skip
