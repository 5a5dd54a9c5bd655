"""How much of the machine others used meanwhile: a comparison on a shared machine is worth as much as its quiet."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Usage:
    """Processor seconds used since the machine started by everybody, and by this program with all it started."""

    at: float
    everybody: float
    ours: float

    @classmethod
    def now(cls) -> Usage:
        """Read the kernel's counters."""
        user, nice, system, _idle, _wait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
        busy = user + nice + system + irq + softirq
        return cls(time.monotonic(), busy / TICKS, sum(_family(os.getpid()).values()) / TICKS)

    def others_since(self, before: Usage) -> float:
        """Processors that others kept busy, on average."""
        used = (self.everybody - before.everybody) - (self.ours - before.ours)
        return max(0.0, used / (self.at - before.at))


def _family(root: int) -> dict[int, int]:
    """Clock ticks by process, of `root` and all processes below it; those that ended count with who started them."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = int(fields[1])
        ticks[int(entry.name)] = sum(map(int, fields[11:15]))
    ours = {root}
    while grown := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= grown
    return {pid: ticks[pid] for pid in ours if pid in ticks}


async def quiet(processors: float, seconds: float) -> None:
    """Return when others use fewer than `processors`, or after `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        before = Usage.now()
        await asyncio.sleep(LOOK_SECONDS)
        if Usage.now().others_since(before) < processors:
            return
