"""helm for tests: render the chart, and install it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

from tests.kubernetes import ProgramsMissingError, find_programs

Json = dict[str, Any]

CHART = Path(__file__).resolve().parents[2] / "charts" / "shoal"
KUBERNETES = "1.34.4"
"""What a rendering without a server takes the cluster for; helm's own default depends on helm's version."""
RELEASE, NAMESPACE = "shoal", "shoal-system"

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast where it is there; the definitions are long."""
_RENDERED: dict[tuple[str | bytes, ...], str] = {}


class HelmError(Exception):
    """helm refused; the text is its complaint."""


def find_helm() -> str:
    """The program: beside the other programs, or on the path. Raises `ProgramsMissingError`."""
    try:
        beside = find_programs() / "helm"
        if os.access(beside, os.X_OK):
            return str(beside)
    except ProgramsMissingError:
        pass
    found = shutil.which("helm")
    if found is None:
        raise ProgramsMissingError("helm is not installed")
    return found


@dataclass(frozen=True)
class Helm:
    """One helm with a home of its own, so that nobody's settings or plugins count."""

    program: str
    home: Path
    kubeconfig: Path | None = None

    def run(self, *args: str, values: Json | None = None) -> str:
        """Run it; returns what it printed. Raises `HelmError`."""
        environment = {**os.environ, **{f"HELM_{kind}_HOME": str(self.home) for kind in ("CACHE", "CONFIG", "DATA")}}
        environment["KUBECONFIG"] = str(self.kubeconfig or self.home / "none")
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            file.write(orjson.dumps(values or {}))
            file.flush()
            given = ["--values", file.name] if values is not None else []
            done = subprocess.run(
                [self.program, *args, *given], capture_output=True, text=True, check=False, env=environment, timeout=90
            )
        if done.returncode != 0:
            raise HelmError(done.stderr.strip())
        return done.stdout

    def text(
        self,
        values: Json | None = None,
        *,
        release: str = RELEASE,
        namespace: str = NAMESPACE,
        options: Sequence[str] = (),
    ) -> str:
        """The chart rendered, as text; once for the same question, since many tests look at the same objects."""
        key = (orjson.dumps(values or {}), release, namespace, *options)
        if key not in _RENDERED:
            where = ("--namespace", namespace, "--kube-version", KUBERNETES, *options)
            _RENDERED[key] = self.run("template", release, str(CHART), *where, values=values or {})
        return _RENDERED[key]

    def render(self, values: Json | None = None, *, release: str = RELEASE, namespace: str = NAMESPACE) -> list[Json]:
        """The chart rendered: its objects in order."""
        text = self.text(values, release=release, namespace=namespace)
        return [body for body in yaml.load_all(text, Loader=_LOADER) if body]


def of_kind(objects: Sequence[Json], kind: str) -> list[Json]:
    """Those of one kind."""
    return [body for body in objects if body["kind"] == kind]


def one(objects: Sequence[Json], kind: str, name: str | None = None) -> Json:
    """The only object of a kind, or of this name."""
    found = [body for body in of_kind(objects, kind) if name is None or body["metadata"]["name"] == name]
    assert len(found) == 1, [body["metadata"]["name"] for body in of_kind(objects, kind)]
    return found[0]
