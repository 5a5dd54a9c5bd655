"""Finds and ends every process of a control plane, those of one whose supervisor was killed too."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from shoal_embedded.node.procfs import ProcessId, all_processes, descendants, find_marked, is_alive, kill_all
from shoal_embedded.node.surroundings import PLANE_MARK

SWEEP_SECONDS = 10.0
"""SIGKILL takes milliseconds; a process that stays this long is stuck in the kernel and cannot be helped."""


def marks(state_dir: Path) -> dict[str, str]:
    """Return the variables that every process of the plane in `state_dir` carries."""
    return {PLANE_MARK: str(state_dir.resolve())}


def find(state_dir: Path) -> set[ProcessId]:
    """Return the running processes of the plane: the marked ones and all their descendants; never the caller's line."""
    table = all_processes()
    family = _ancestors(os.getpid())
    found = {identity for identity in find_marked(marks(state_dir)) if identity.pid not in family}
    hidden = {process.identity for identity in found for process in descendants(table, identity.pid)}
    return {identity for identity in found | hidden if identity.pid not in family}


def sweep(state_dir: Path) -> int:
    """Kill every process of the plane and return how many there were; returns when they are gone."""
    total: set[ProcessId] = set()
    end = time.monotonic() + SWEEP_SECONDS
    while (left := find(state_dir) | {each for each in total if is_alive(each)}) and time.monotonic() < end:
        total |= left
        kill_all(left, signal.SIGKILL)
        time.sleep(0.02)
    return len(total)


def _ancestors(pid: int) -> set[int]:
    table = all_processes()
    line: set[int] = set()
    while pid in table and pid not in line:
        line.add(pid)
        pid = table[pid].parent
    return line
