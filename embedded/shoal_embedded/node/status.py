"""A pod's status, built from the records of its containers. Pure; equal input gives equal output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shoal_embedded.node.decide import Phase, Records, initialized, phase_of, restarts
from shoal_embedded.node.podspec import Container, Kind, Pod, format_time
from shoal_embedded.node.records import ContainerRecord, Ended, PodRecord

Json = dict[str, Any]

_OWN_CONDITIONS = ("Initialized", "Ready", "ContainersReady", "PodScheduled")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the pod runs."""

    host_ip: str
    pod: PodRecord


def build_status(pod: Pod, records: Records, place: Place, now: float, before: Json | None = None) -> Json:
    """Return the whole status of a pod. `before` is the status last written, for the times of what stays."""
    before = before or pod.body.get("status") or {}
    failed = place.pod.failed_reason
    phase = phase_of(pod, records, failed=bool(failed))
    over = pod.deleting or phase in (Phase.SUCCEEDED, Phase.FAILED)
    early = [container for container in pod.containers if container.kind is not Kind.MAIN]
    main = [container for container in pod.containers if container.kind is Kind.MAIN]
    status: Json = {
        "phase": phase.value,
        "hostIP": place.host_ip,
        "hostIPs": [{"ip": place.host_ip}],
        "podIP": place.pod.ip,
        "podIPs": [{"ip": place.pod.ip}],
        "startTime": format_time(place.pod.started_at),
        "conditions": _conditions(pod, records, phase, before, now),
        "containerStatuses": [_container_status(pod, container, records, now, over=over) for container in main],
    }
    if early:
        status["initContainerStatuses"] = [
            _container_status(pod, container, records, now, over=over) for container in early
        ]
    if failed:
        status |= {"reason": failed, "message": place.pod.failed_message}
    return status


def is_ready(pod: Pod, records: Records) -> bool:
    """Whether the pod takes requests: everything in it is ready."""
    return all(records[container.name].ready for container in pod.containers if container.kind is not Kind.INIT)


def _conditions(pod: Pod, records: Records, phase: Phase, before: Json, now: float) -> list[Json]:
    early = [container for container in pod.containers if container.kind is not Kind.MAIN]
    uninitialized = [each.name for each in early if not initialized(each, records[each.name])]
    unready = [each.name for each in pod.containers if each.kind is not Kind.INIT and not records[each.name].ready]
    if phase is Phase.SUCCEEDED:
        ready: Json = {"status": "False", "reason": "PodCompleted"}
        done: Json = {"status": "True", "reason": "PodCompleted"}
    else:
        ready = _condition(unready, "ContainersNotReady", "containers with unready status: [{}]")
        done = _condition(uninitialized, "ContainersNotInitialized", "containers with incomplete status: [{}]")
    found = {
        "PodScheduled": {"status": "True"},
        "Initialized": done,
        "ContainersReady": ready,
        "Ready": ready,
    }
    known = {each["type"]: each for each in before.get("conditions") or ()}
    current = (pod.body.get("status") or {}).get("conditions") or ()
    others = [each for each in current if each["type"] not in _OWN_CONDITIONS]
    return others + [_dated(name, condition, known.get(name), now) for name, condition in found.items()]


def _condition(culprits: list[str], reason: str, message: str) -> Json:
    if not culprits:
        return {"status": "True"}
    return {"status": "False", "reason": reason, "message": message.format(" ".join(culprits))}


def _dated(name: str, condition: Json, known: Json | None, now: float) -> Json:
    since = format_time(now)
    if known is not None and known.get("status") == condition["status"] and known.get("lastTransitionTime"):
        since = known["lastTransitionTime"]
    return {"type": name, **condition, "lastTransitionTime": since}


def _container_status(pod: Pod, container: Container, records: Records, now: float, *, over: bool) -> Json:
    record = records[container.name]
    status: Json = {
        "name": container.name,
        "image": container.body.get("image", ""),
        "imageID": "",
        "ready": record.ready or (container.kind is Kind.INIT and initialized(container, record)),
        "started": record.started,
        "restartCount": record.restarts,
        "state": _state(pod, container, record, now, over=over),
        "lastState": {},
    }
    if record.attempt:
        status["containerID"] = f"process://{pod.uid}.{container.name}.{record.attempt}"
    last = record.last if record.running or "terminated" in status["state"] else record.ended or record.last
    if last is not None:
        status["lastState"] = {"terminated": _terminated(last)}
    return status


def _state(pod: Pod, container: Container, record: ContainerRecord, now: float, *, over: bool) -> Json:
    if record.running:
        return {"running": {"startedAt": format_time(record.started_at)}}
    if record.waiting_reason:
        return {"waiting": {"reason": record.waiting_reason, "message": record.waiting_message}}
    if record.ended is not None:
        again = not over and restarts(pod, container, record)
        if again and container.kind is Kind.INIT and record.ended.exit_code == 0:
            again = False
        if again and record.retry_at > now:
            wait = f"back-off {max(1, round(record.retry_at - record.ended.finished_at))}s restarting failed container="
            message = f"{wait}{container.name} pod={pod.name}_{pod.namespace}({pod.uid})"
            return {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
        return {"terminated": _terminated(record.ended)}
    return {"waiting": {"reason": _first_wait(pod, container)}}


def _terminated(ended: Ended) -> Json:
    body: Json = {
        "exitCode": ended.exit_code,
        "reason": ended.reason,
        "startedAt": format_time(ended.started_at),
        "finishedAt": format_time(ended.finished_at),
    }
    if ended.message:
        body["message"] = ended.message
    return body


def _first_wait(pod: Pod, container: Container) -> str:
    initializing = container.kind is Kind.MAIN and pod.spec.get("initContainers")
    return "PodInitializing" if initializing else "ContainerCreating"
