"""What to do next with a pod's containers. Pure: a pod, the records of its containers and the time give the actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from shoal_embedded.node.podspec import Container, Kind, Pod
from shoal_embedded.node.records import ContainerRecord

BACKOFF_BASE, BACKOFF_CAP = 10.0, 300.0
"""kubelet's: the first restart at once, then after 10 s, 20 s … 300 s."""
CALM_SECONDS = 600.0
"""A run that lasted this long begins the back-off anew (kubelet: twice the cap)."""

Records = Mapping[str, ContainerRecord]


class Phase(StrEnum):
    """A pod's phase."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Start:
    """Start this container."""

    container: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop this container: `grace` seconds between SIGTERM and SIGKILL."""

    container: str
    grace: float


@dataclass(frozen=True, slots=True)
class Decision:
    """Actions to take now and when to look again (epoch seconds). `gone`: nothing runs and nothing will."""

    phase: Phase
    actions: tuple[Start | Stop, ...] = ()
    wake_at: float | None = None
    gone: bool = False


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """Delays between restarts, in seconds."""

    base: float = BACKOFF_BASE
    cap: float = BACKOFF_CAP

    def delay(self, crashes: int) -> float:
        """Return the wait before a restart when `crashes` restarts have gone before: nothing, base, 2 base, …, cap."""
        return 0.0 if crashes == 0 else min(self.cap, self.base * 2.0 ** min(crashes - 1, 30))


def decide(pod: Pod, records: Records, now: float, *, failed: bool = False) -> Decision:
    """Return the next actions. `failed`: the node has ended this pod for good (deadline)."""
    phase = phase_of(pod, records, failed=failed)
    if pod.deleting or phase in (Phase.SUCCEEDED, Phase.FAILED):
        stops = _stop_all(pod, records)
        return Decision(phase, stops, None, gone=not any(record.running for record in records.values()))
    actions: list[Start | Stop] = []
    wakes: list[float] = []
    deadline = pod.deadline()
    if deadline is not None:
        wakes.append(deadline)
    for container in due(pod, records):
        record = records[container.name]
        if record.retry_at > now:
            wakes.append(record.retry_at)
        else:
            actions.append(Start(container.name))
    return Decision(phase, tuple(actions), min(wakes, default=None))


def due(pod: Pod, records: Records) -> list[Container]:
    """Return the containers that ought to run now and do not."""
    wanted: list[Container] = []
    for container in pod.containers:
        record = records[container.name]
        if container.kind is Kind.INIT:
            if not initialized(container, record):
                return wanted if record.running else [*wanted, container]
            continue
        if not record.running and restarts(pod, container, record):
            wanted.append(container)
        if container.kind is Kind.SIDECAR and not initialized(container, record):
            return wanted
    return wanted


def initialized(container: Container, record: ContainerRecord) -> bool:
    """Whether what comes after this init container or sidecar may start."""
    if container.kind is Kind.SIDECAR:
        # Once it has been up, its end does not hold back the containers after it.
        return record.was_up
    return record.ended is not None and record.ended.exit_code == 0


def restarts(pod: Pod, container: Container, record: ContainerRecord) -> bool:
    """Whether a container that does not run is to be started (again)."""
    if record.ended is None or container.kind is Kind.SIDECAR or pod.restart_policy == "Always":
        return True
    return pod.restart_policy == "OnFailure" and record.ended.exit_code != 0


def phase_of(pod: Pod, records: Records, *, failed: bool = False) -> Phase:
    """Return the pod's phase."""
    if failed:
        return Phase.FAILED
    early = [container for container in pod.containers if container.kind is not Kind.MAIN]
    for container in early:
        record = records[container.name]
        if container.kind is Kind.INIT and record.ended and record.ended.exit_code and pod.restart_policy == "Never":
            return Phase.FAILED
    if not all(initialized(container, records[container.name]) for container in early):
        return Phase.PENDING
    main = [container for container in pod.containers if container.kind is Kind.MAIN]
    if not all(records[container.name].attempt for container in main):
        return Phase.PENDING
    over = [records[container.name].ended for container in main if _over(pod, container, records[container.name])]
    if len(over) < len(main):
        return Phase.RUNNING
    return Phase.FAILED if any(ended and ended.exit_code for ended in over) else Phase.SUCCEEDED


def after_end(record: ContainerRecord, now: float, backoff: BackoffPolicy) -> None:
    """Note in the record of a container that has just ended when it may be started again."""
    assert record.ended is not None
    if record.ended.finished_at - record.ended.started_at >= CALM_SECONDS:
        record.crashes = 0
    record.retry_at = now + backoff.delay(record.crashes)
    record.crashes += 1


def _over(pod: Pod, container: Container, record: ContainerRecord) -> bool:
    return not record.running and record.ended is not None and not restarts(pod, container, record)


def _stop_all(pod: Pod, records: Records) -> tuple[Stop, ...]:
    """Main containers first; sidecars, which they may need to the end, in reverse order once those have ended."""
    running = [container for container in pod.containers if records[container.name].running]
    main = [container for container in running if container.kind is not Kind.SIDECAR]
    chosen = main or running[-1:]
    return tuple(Stop(container.name, pod.grace) for container in chosen if not records[container.name].stopping)
