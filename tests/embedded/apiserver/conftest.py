"""The embedded API server as a process, and kubectl against it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shoal.crdgen import generate
from tests.kubernetes import ProgramsMissingError, find_programs

TOKEN = "secret"


def kubectl_program() -> str:
    """kubectl, from the programs of a real control plane or the PATH; skips where there is none."""
    try:
        return str(find_programs() / "kubectl")
    except ProgramsMissingError as reason:
        found = shutil.which("kubectl")
        if found is None:
            pytest.skip(f"no kubectl: {reason}")
        return found


@dataclass
class Embedded:
    """One server, restarted at will; its state stays."""

    folder: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    namespaces: int = 0
    kubeconfig: Path = field(default_factory=Path)
    flags: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with socket.socket() as probe:
            # A server that was killed leaves connections behind that would hold its port for a minute.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", self.port))
            self.port = probe.getsockname()[1]
        token = self.folder / "token"
        token.write_text(TOKEN)
        command = [sys.executable, "-m", "shoal_embedded.apiserver", "--data", str(self.folder)]
        command += ["--listen", f"127.0.0.1:{self.port}", "--token-file", str(token), *self.flags]
        self.process = subprocess.Popen(command)
        self.kubeconfig = self.folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(_kubeconfig(f"{self.url}/{TOKEN}")))
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise AssertionError("the embedded API server does not answer")

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        os.kill(self.process.pid, how)
        self.process.wait(10)

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> str:
        command = [kubectl_program(), f"--kubeconfig={self.kubeconfig}", *args]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(args)} failed: {done.stderr.strip()}")
        return done.stdout if check else done.stdout + done.stderr

    def namespace(self) -> str:
        self.namespaces += 1
        name = f"test-{self.namespaces}"
        self.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        return name

    def call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> tuple[int, Any]:
        """One request; returns status and decoded body."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": content_type},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())


def _kubeconfig(url: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """A server with Shoal's definitions."""
    server = Embedded(tmp_path_factory.mktemp("apiserver"))
    server.start()
    for definition in generate.definitions():
        status, body = server.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        assert status == 201, body
    yield server
    server.end()
