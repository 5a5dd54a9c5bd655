"""Programs in the background: started with a log file each, ended together, and told of when one dies."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_PDEATHSIG = 1
STOP_SECONDS = 5.0
"""Servers of a cluster that ends have nothing to finish."""


class DaemonError(Exception):
    """A program ended, or something was not so in time; the text has the end of its log."""


def die_with_parent() -> None:
    """In a new process: be killed when the one that started it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Daemons:
    """The running programs by name; `folder` gets their logs."""

    folder: Path
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str | Path], **options: object) -> None:
        """Start a program; `options` are Popen's."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
                **options,  # type: ignore[call-overload]
            )

    def log(self, name: str) -> Path:
        """Where a program's words go."""
        return self.folder / f"{name}.log"

    def pid(self, name: str) -> int:
        """Process number of a running program."""
        return self._running[name].pid

    def kill(self, name: str) -> None:
        """SIGKILL one program and wait for its end."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def until(self, true: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until something is so; raises DaemonError when a program ends before, or the time is over."""
        deadline = time.monotonic() + seconds
        while not true():
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise DaemonError(f"{name} ended with {process.returncode}: {self._end_of(name)}")
            if time.monotonic() > deadline:
                ends = "\n".join(f"--- {name}: {self._end_of(name, 600)}" for name in self._running)
                raise DaemonError(f"{what}: not within {seconds:g} s\n{ends}")
            time.sleep(0.05)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End all, the last started first; what has not ended within `seconds` is killed."""
        for process in reversed(list(self._running.values())):
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    def _end_of(self, name: str, characters: int = 2000) -> str:
        return self.log(name).read_text(errors="replace")[-characters:]
