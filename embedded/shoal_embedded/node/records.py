"""What the node remembers of a container, in memory and in a file, so that a restarted node goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from shoal_embedded.node.procfs import ProcessId

Json = dict[str, Any]
T = TypeVar("T")


NODE_SHUTDOWN = "NodeShutdown"
"""Reason of an end that the node's own stop has brought about; the operator counts it against no role."""
LOST = "ContainerStatusUnknown"
"""kubelet's reason for an end that nobody saw: the machine was restarted, say."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of one run of a container. Times in epoch seconds."""

    exit_code: int
    reason: str
    message: str
    started_at: float
    finished_at: float

    @property
    def by_node(self) -> bool:
        """Whether the node has brought it about, and not the container."""
        return self.reason in (NODE_SHUTDOWN, LOST)


@dataclass(slots=True)
class ContainerRecord:
    """One container: what its current run is like. `shim` is set while it runs.

    `attempt` counts starts from 1; `crashes` the restarts whose back-off is in force; `retry_at` (epoch seconds) is the
    time before which no start is tried; `waiting_…` says why it has not been started. `started` and `ready` are what
    probes say of this run, `was_up` that some run has got that far.
    """

    name: str
    attempt: int = 0
    shim: ProcessId | None = None
    started_at: float = 0.0
    ended: Ended | None = None
    last: Ended | None = None
    waiting_reason: str = ""
    waiting_message: str = ""
    retry_at: float = 0.0
    crashes: int = 0
    was_up: bool = False
    started: bool = False
    ready: bool = False
    stopping: bool = False
    kill_reason: str = ""

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self.shim is not None

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return max(0, self.attempt - 1)


@dataclass(slots=True)
class PodRecord:
    """What the node remembers of a pod. `failed_reason` is set when the node itself ended the pod for good."""

    uid: str
    namespace: str
    name: str
    ip: str
    started_at: float
    boot: str
    failed_reason: str = ""
    failed_message: str = ""


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file in one step, so that a kill leaves the old or the new content."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


class PodFolder:
    """The folder of one pod: `pod.json`, and per container a record, logs and run files; volumes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def container(self, name: str) -> Path:
        """Folder of one container."""
        return self.path / "containers" / name

    def volume(self, name: str) -> Path:
        """Directory of a volume that lives and ends with the pod."""
        return self.path / "volumes" / name

    def log(self, container: str, attempt: int) -> Path:
        """Log file of one run of a container."""
        return self.container(container) / f"{attempt}.log"

    def run_file(self, container: str, attempt: int) -> Path:
        """File into which a run's first process writes its number; with `.exit`, its exit code."""
        return self.container(container) / f"{attempt}.pid"

    def termination_log(self, container: str) -> Path:
        """File into which the container may write its last words."""
        return self.container(container) / "termination-log"

    def save_pod(self, record: PodRecord) -> None:
        """Write `pod.json`."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / "pod.json", orjson.dumps(asdict(record)))

    def load_pod(self) -> PodRecord | None:
        """Read `pod.json`; None when it was never written."""
        return _load(self.path / "pod.json", lambda body: PodRecord(**body))

    def save_container(self, record: ContainerRecord) -> None:
        """Write a container's record."""
        self.container(record.name).mkdir(parents=True, exist_ok=True)
        write_atomically(self.container(record.name) / "record.json", orjson.dumps(asdict(record)))

    def load_container(self, name: str) -> ContainerRecord:
        """Read a container's record; a new one when there is none."""
        loaded = _load(self.container(name) / "record.json", _read_container)
        return loaded if loaded is not None else ContainerRecord(name)


def _read_container(body: Json) -> ContainerRecord:
    shim, ended, last = body.pop("shim"), body.pop("ended"), body.pop("last")
    return ContainerRecord(
        **body,
        shim=ProcessId(**shim) if shim else None,
        ended=Ended(**ended) if ended else None,
        last=Ended(**last) if last else None,
    )


def _load(path: Path, read: Callable[[Json], T]) -> T | None:
    try:
        return read(orjson.loads(path.read_bytes()))
    except (FileNotFoundError, orjson.JSONDecodeError, TypeError, KeyError):
        return None
