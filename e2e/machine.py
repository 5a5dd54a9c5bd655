"""A run of `shoal run` on this machine, as scenarios see it: its job, its processes, its end."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from e2e.providers.examples import EXAMPLE
from shoal.api.services.report import RunReport

PROGRAMS = {
    "operator": "shoal.cli.main operator",
    "environment": "shoal_workers.environment",
    "engine": "shoal_workers.engines",
    "data": "shoal_workers.data",
    "trainer": "shoal_workers.trainer",
    "broker": "shoal_workers.broker",
    "gateway": "shoal_workers.gateway",
    "agent": "shoal_workers.agent",
}


@dataclass
class Machine:
    """One run in a folder of its own."""

    folder: Path
    options: list[str] = field(default_factory=list)
    manifest: Path = EXAMPLE
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What the command has printed."""
        file = self.folder / "run.log"
        return file.read_text(errors="replace") if file.exists() else ""

    @property
    def report(self) -> RunReport:
        """The report of the ended run."""
        return RunReport.model_validate_json((self.folder / "report" / "report.json").read_bytes())

    def start(self) -> None:
        """Begin the run."""
        command = [sys.executable, "-m", "shoal.cli.main", "run", str(self.manifest)]
        command += ["--state-dir", str(self.folder / "state"), "--report-dir", str(self.folder / "report")]
        command += ["--set", f"spec.storage.hostPath.path={self.folder / 'data'}", *self.options]
        self.process = subprocess.Popen(command, stdout=(self.folder / "run.log").open("wb"), stderr=subprocess.STDOUT)

    def wait(self, seconds: float) -> int:
        """The command's exit code; raises TimeoutExpired."""
        assert self.process is not None
        return self.process.wait(seconds)

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    @property
    def server(self) -> str:
        """The API server's URL; raises OSError, ValueError or TypeError while there is none."""
        kubeconfig = yaml.safe_load((self.folder / "state" / "kubeconfig").read_text())
        return str(kubeconfig["clusters"][0]["cluster"]["server"])

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """One resource, {} while there is none or the API server does not answer."""
        try:
            url = f"{self.server}/apis/rl.shoal.dev/v1alpha1/namespaces/default/{kind}/{name}"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return dict(json.load(answer))
        except (OSError, ValueError, TypeError):
            return {}

    def step(self) -> int:
        """Steps that the job has done."""
        return int(self.get("rljobs", "frozenlake").get("status", {}).get("step", 0))

    def until(self, true: Callable[[], bool], what: str, seconds: float) -> float:
        """Wait until something is so; returns the seconds that it took. Fails when a run of `start` ends before."""
        began = time.monotonic()
        while not true():
            waited = time.monotonic() - began
            assert waited < seconds, f"{what}: not within {seconds:g} s\n{self.log[-3000:]}"
            ended = self.process is not None and self.process.poll() is not None
            assert not ended, f"the run ended before: {what}\n{self.log[-3000:]}"
            time.sleep(0.1)
        return time.monotonic() - began

    def processes(self) -> dict[int, str]:
        """Every process that belongs to this run, by its command line or by a variable of its environment."""
        mark = str(self.folder).encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    command = (entry / "cmdline").read_bytes()
                    if mark in command or mark in (entry / "environ").read_bytes():
                        found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
        return found

    def kill(self, role: str) -> int:
        """SIGKILL one process of a role; returns its number."""
        victims = [
            pid for pid, command in self.processes().items() if PROGRAMS[role] in command and "/bin/sh" not in command
        ]
        assert victims, f"no process of role {role}: {self.processes()}"
        os.kill(min(victims), signal.SIGKILL)
        return min(victims)
