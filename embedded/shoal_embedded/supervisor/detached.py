"""A control plane that stays when the command that started it ends: `shoal up` and `shoal down`."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from shoal_embedded.node.procfs import identify, is_alive, kill_all
from shoal_embedded.supervisor import leftovers, scratch
from shoal_embedded.supervisor.errors import PlaneError, StateDirInUseError
from shoal_embedded.supervisor.programs import Layout

STOP_SECONDS = 30.0
"""Containers get 5 s, the programs 4 each; more means that the supervisor hangs."""
READY_FILE = "ready"


def holder(state_dir: Path) -> int | None:
    """Return the process that runs a control plane in this folder, or None."""
    try:
        with (state_dir / "lock").open("r") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                text = lock.read().strip()
                return int(text) if text.isdigit() else None
    except FileNotFoundError:
        return None
    return None


def is_running(state_dir: Path) -> bool:
    """Whether a control plane works in this folder."""
    return holder(state_dir.resolve()) is not None


async def start_detached(state_dir: Path, kind: str = "embedded", data_dir: Path | None = None) -> Path:
    """Start a control plane in the background, wait until it is ready, return its kubeconfig.

    Raises `StateDirInUseError` when one runs there already, `PlaneError` when it does not come up.
    """
    state_dir = state_dir.resolve()
    running = holder(state_dir)
    if running is not None:
        raise StateDirInUseError(f"{state_dir} is in use by a control plane (process {running})")
    layout = Layout(state_dir)
    layout.logs.mkdir(parents=True, exist_ok=True)
    (state_dir / READY_FILE).unlink(missing_ok=True)
    command = [sys.executable, "-m", "shoal_embedded.supervisor", "--state-dir", str(state_dir), "--kind", kind]
    command += ["--data-dir", str(data_dir)] if data_dir is not None else []
    path = layout.logs / "supervisor.log"
    before = path.stat().st_size if path.exists() else 0
    with path.open("ab") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 (it takes a millisecond)
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        while not (state_dir / READY_FILE).exists():
            if process.poll() is not None:
                words = path.read_bytes()[before:].decode(errors="replace").strip()
                raise PlaneError(words.splitlines()[-1] if words else f"the supervisor ended; see {path}")
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        process.terminate()
        raise
    return layout.kubeconfig


def stop_detached(state_dir: Path) -> bool:
    """End the control plane of this folder, with every process of it; False when none ran.

    Blocks until it is over. Processes of a plane whose supervisor was killed are ended, too.
    """
    state_dir = state_dir.resolve()
    pid = holder(state_dir)
    if pid is not None:
        identity = identify(pid)
        if identity is not None:
            os.kill(pid, signal.SIGTERM)
            end = time.monotonic() + STOP_SECONDS
            while is_alive(identity) and time.monotonic() < end:
                time.sleep(0.05)
            kill_all([identity], signal.SIGKILL)
    left = leftovers.sweep(state_dir)
    scratch.remove(state_dir)
    Layout(state_dir).kubeconfig.unlink(missing_ok=True)
    (state_dir / READY_FILE).unlink(missing_ok=True)
    return pid is not None or left > 0
