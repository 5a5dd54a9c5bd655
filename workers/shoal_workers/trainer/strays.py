"""Processes that a Ray head leaves behind when it is torn down roughly: found by a mark in their environment."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

VARIABLE = "SHOAL_RAY_SESSION"
SWEEP_SECONDS = 5.0
"""The kernel takes milliseconds; what is there for longer cannot be killed by this process."""
LOOK_SECONDS = 0.02


def mark(session: str) -> None:
    """From now on every process that this one starts carries the mark."""
    os.environ[VARIABLE] = session


def marked(session: str) -> list[int]:
    """The processes that carry the mark, except this one; none where there is no /proc."""
    wanted = f"{VARIABLE}={session}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
    return [pid for pid in found if pid != os.getpid()]


def sweep(session: str) -> list[int]:
    """Kill what carries the mark until nothing does. Ray's agents outlive their raylet by up to a minute when it was
    killed, and a process that is being killed may just have started another.
    """
    killed: dict[int, None] = {}
    deadline = time.monotonic() + SWEEP_SECONDS
    while (found := marked(session)) and time.monotonic() < deadline:
        for pid in found:
            killed[pid] = None
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK_SECONDS)
    return list(killed)
