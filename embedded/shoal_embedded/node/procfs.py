"""What /proc tells about processes: identity, family, environment, memory and processor time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process for good: its number, and when it started (clock ticks since boot), because numbers are used again."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/PID/stat. `cpu_seconds` includes children that ended and were waited for; `rss` in bytes."""

    pid: int
    parent: int
    state: str
    started: int
    cpu_seconds: float
    rss: int

    @property
    def identity(self) -> ProcessId:
        """The process's identity."""
        return ProcessId(self.pid, self.started)

    @property
    def alive(self) -> bool:
        """Whether it still runs: a zombie does not."""
        return self.state not in "ZX"


Table = Mapping[int, Process]


def boot_id() -> str:
    """Return a text that changes with every boot, since start times begin again then."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_process(pid: int) -> Process | None:
    """Return one process, a zombie too; None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The name, in parentheses, may hold anything, parentheses too.
    fields = text[text.rindex(b")") + 2 :].split()
    ticks = sum(int(fields[index]) for index in (11, 12, 13, 14))
    return Process(
        pid, int(fields[1]), fields[0].decode(), int(fields[19]), ticks / TICKS, max(0, int(fields[21])) * PAGE
    )


def identify(pid: int) -> ProcessId | None:
    """Return the identity of a running process; None when it has ended."""
    process = read_process(pid)
    return process.identity if process is not None and process.alive else None


def is_alive(identity: ProcessId) -> bool:
    """Whether exactly this process still runs."""
    return identify(identity.pid) == identity


def all_processes() -> dict[int, Process]:
    """Return every process of the machine that may be seen."""
    found = (read_process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {process.pid: process for process in found if process is not None}


def descendants(table: Table, root: int) -> list[Process]:
    """Return the children, grandchildren and so on of `root`, zombies left out."""
    children: dict[int, list[Process]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    queue = [root]
    while queue:
        for child in children.get(queue.pop(), ()):
            queue.append(child.pid)
            if child.alive:
                found.append(child)
    return found


def environment(pid: int) -> dict[str, str]:
    """Return the environment a process was started with; empty when it may not be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return {}
    pairs = (entry.decode(errors="replace").partition("=") for entry in entries)
    return {name: value for name, equals, value in pairs if equals}


def find_marked(marks: Mapping[str, str]) -> list[ProcessId]:
    """Return the running processes whose environment holds all of `marks`; never the caller itself.

    The environment is that of the start: a program that overwrites its title may hide it, so this is the net under
    following the family tree, not a replacement.
    """
    wanted = [f"{name}={value}".encode() for name, value in marks.items()]
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                entries = set(file.read().split(b"\0"))
        except OSError:
            continue
        if all(entry in entries for entry in wanted):
            identity = identify(int(name))
            if identity is not None:
                found.append(identity)
    return found


def kill_all(identities: Iterable[ProcessId], how: int) -> None:
    """Signal each process that is still the one meant."""
    for identity in identities:
        if is_alive(identity):
            try:
                os.kill(identity.pid, how)
            except (ProcessLookupError, PermissionError):
                continue


def proportional_memory(pid: int) -> int:
    """Return the process's memory in bytes, pages shared with others counted in parts; 0 when unknown."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0
