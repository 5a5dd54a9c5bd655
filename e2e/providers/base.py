"""What a scenario may ask of a cluster, and what a provider of clusters has to tell."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

Json = dict[str, Any]


class Feature(StrEnum):
    """What not every cluster has; a scenario names what it needs."""

    CONTAINERS = "containers"
    """Pods are containers of the images, and the operator is a pod of the chart."""
    AUDIT = "audit"
    """The API server writes down what the operator's account asked for."""
    PROCESSES = "processes"
    """Pods' processes run on this machine, so that one can be killed."""


class ClusterError(Exception):
    """A command failed, or something was not so in time; the text says which and why."""


@dataclass
class Cluster:
    """A running cluster with Shoal installed.

    Args:
        kubectl_program: the kubectl that fits it.
        kubeconfig: an admin's.
        features: what it has.
        storage: the `spec.storage` of a job here, given its namespace; made to be written by a pod's user.
        model: the `spec.model.source` of the example's model here, given the namespace.
        audit_log: JSON lines of what the operator's account asked for; with `Feature.AUDIT`.
        helm_values: values that the chart was installed with; with `Feature.CONTAINERS`.
        helm: runs helm with these arguments; with `Feature.CONTAINERS`.
    """

    kubectl_program: Path | str
    kubeconfig: Path
    features: frozenset[Feature] = frozenset()
    storage: Callable[[str], Json] = lambda _: {}
    model: Callable[[str], str] = lambda _: ""
    audit_log: Path | None = None
    helm_values: Json = field(default_factory=dict)
    helm: Callable[..., str] | None = None

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl as the admin; returns what it printed. Raises ClusterError with its complaint."""
        command = [str(self.kubectl_program), f"--kubeconfig={self.kubeconfig}", *args]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise ClusterError(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, kind: str, name: str, namespace: str) -> Json:
        """One object; {} when there is none."""
        text = self.kubectl("-n", namespace, "get", kind, name, "-o", "json", "--ignore-not-found")
        return dict(json.loads(text)) if text.strip() else {}

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Json]:
        """All objects of a kind in a namespace."""
        text = self.kubectl("-n", namespace, "get", kind, "-o", "json", *([f"--selector={selector}"] * bool(selector)))
        return list(json.loads(text)["items"])

    def apply(self, *manifests: Json) -> None:
        """Server-side apply."""
        text = "\n---\n".join(json.dumps(manifest) for manifest in manifests)
        self.kubectl("apply", "--server-side", "-f", "-", stdin=text)

    def until(self, true: Callable[[], bool], what: str, seconds: float, *, pause: float = 0.5) -> float:
        """Wait until something is so; returns the seconds that it took. Raises ClusterError when the time is over."""
        began = time.monotonic()
        while not true():
            if time.monotonic() - began > seconds:
                raise ClusterError(f"{what}: not within {seconds:g} s")
            time.sleep(pause)
        return time.monotonic() - began


class Provider(Protocol):
    """Makes clusters of one kind."""

    name: str

    def unavailable(self) -> str | None:
        """Why it cannot be used on this machine; None when it can."""

    def prepared(self) -> AbstractContextManager[Mapping[str, str]]:
        """Get ready what needs time or the network, such as images: variables that `cluster` finds it by.

        When the block is left, what the provider's clusters did to this machine is undone, however they ended.
        """

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` where the provider's clusters can be started and reached."""

    def cluster(self, folder: Path) -> AbstractContextManager[Cluster]:
        """A new cluster with Shoal installed; gone without a trace when the block is left."""
