"""A job in a Kueue queue: when it may run, and what its Workload is told.

The contract is that of Kueue's own job integrations (its `jobframework`): nothing runs before the Workload is Admitted;
an Evicted job stops, and gives its quota back only when its last pod is gone; a Workload whose pod sets no longer fit
the job is replaced, because they cannot be changed under a reservation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shoal.api.labels import SETS_HASH, SPEC_HASH
from shoal.api.v1alpha1.jobqueue import AdmissionStatus
from shoal.planner.actions import Action, Apply, DeleteChild, Manifest, PatchStatus
from shoal.planner.admission import QueueDecision
from shoal.planner.conditions import Verdict
from shoal.planner.times import timestamp

REQUEUED_AFTER = frozenset({"Preempted", "NodeFailures"})
"""Evictions after which the job queues again at once; after the others Kueue says when."""

ABSENT = "KueueAbsent"
"""Reason while no Kueue is installed."""

RawCondition = dict[str, Any]


@dataclass(frozen=True)
class WorkloadView:
    """A Workload, cut down to what decides."""

    name: str
    uid: str
    resource_version: str
    generation: int
    deleting: bool
    spec_hash: str
    sets_hash: str
    conditions: Sequence[RawCondition] = ()
    admission: Manifest | None = None
    checks: Sequence[Manifest] = ()

    def condition(self, type_: str) -> RawCondition:
        """The condition of this type, {} when there is none."""
        return next((each for each in self.conditions if each.get("type") == type_), {})

    def is_true(self, type_: str) -> bool:
        """Whether the condition of this type is True."""
        return bool(self.condition(type_).get("status") == "True")


def view_workload(body: dict[str, Any]) -> WorkloadView:
    """The view of a Workload as the API server returns it."""
    metadata, status = body["metadata"], body.get("status") or {}
    annotations = metadata.get("annotations") or {}
    return WorkloadView(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata.get("generation", 0),
        deleting="deletionTimestamp" in metadata,
        spec_hash=annotations.get(SPEC_HASH, ""),
        sets_hash=annotations.get(SETS_HASH, ""),
        conditions=tuple(status.get("conditions") or ()),
        admission=status.get("admission"),
        checks=tuple(status.get("admissionChecks") or ()),
    )


@dataclass(frozen=True)
class QueueObserved:
    """What a pass sees of the job's queue.

    Args:
        queue: name of the LocalQueue from the job's label; "" for a job that does not queue.
        trouble: (reason, message) why Kueue cannot be asked now, None when it can.
        workload: the job's Workload, None while there is none.
        desired: the Workload as it should be; None when it cannot be built.
        impossible: (reason, message) why the job can never be admitted as it is.
        unready: (reason, message) why the Workload cannot be built now.
        refusal: why it was refused when it was last applied, "" when it was not.
        admission: what the current admission gives the pods; None while a flavor is not known, `unplaced` says why.
        unplaced: why `admission` is None although the Workload is admitted.
        kept: the admission that the job's status tells of, from an earlier pass.
        pods: pods of the job and of what it owns.
        idle: whether what is left of them needs no quota any more (the data manager that lingers).
        running: whether the job's status says that all of its planes serve.
    """

    queue: str = ""
    trouble: tuple[str, str] | None = None
    workload: WorkloadView | None = None
    desired: Manifest | None = None
    impossible: tuple[str, str] | None = None
    unready: tuple[str, str] | None = None
    refusal: str = ""
    admission: AdmissionStatus | None = None
    unplaced: str = ""
    kept: AdmissionStatus | None = None
    pods: int = 0
    idle: bool = True
    running: bool = False


def plan_queue(seen: QueueObserved, *, suspended: bool, end: Verdict | None, now: float) -> QueueDecision:
    """One look at the job's queue.

    Args:
        seen: the queue's side of the job.
        suspended: the user's own `suspend`.
        end: the verdict that ended the job, None while it goes on.
        now: seconds since the epoch.
    """
    workload = seen.workload
    if not seen.queue:
        left = _delete(workload, "LeftQueue") if workload and not workload.deleting else []
        return QueueDecision(actions=left)
    if seen.trouble is not None:
        return _without_kueue(seen)
    if end is not None:
        return _ended(seen, end, now)
    if workload is None:
        return _without_workload(seen, suspended=suspended)
    if workload.deleting:
        return _rest("WorkloadDeleted", f"Workload {workload.name} is being deleted")
    if workload.is_true("Finished"):
        told = workload.condition("Finished")
        return _rest("WorkloadFinished", f"Workload {workload.name} was declared finished: {told.get('message', '')}")
    if seen.impossible is not None:
        return _rest(*seen.impossible, actions=_delete(workload, seen.impossible[0]))
    if seen.desired is not None and _outgrown(workload, seen.desired):
        message = f"the job no longer fits what Workload {workload.name} was admitted with; it queues again"
        return _rest("OutOfSync", message, actions=_delete(workload, "OutOfSync"))
    updates: list[Action] = []
    if seen.desired is not None and _annotation(seen.desired, SPEC_HASH) != workload.spec_hash:
        updates.append(Apply(seen.desired))
    return _with_workload(seen, workload, updates, suspended=suspended, now=now)


def _outgrown(workload: WorkloadView, desired: Manifest) -> bool:
    return workload.is_true("QuotaReserved") and _annotation(desired, SETS_HASH) != workload.sets_hash


def _with_workload(
    seen: QueueObserved, workload: WorkloadView, updates: list[Action], *, suspended: bool, now: float
) -> QueueDecision:
    evicted = workload.condition("Evicted")
    if evicted.get("status") == "True" and workload.is_true("QuotaReserved"):
        if seen.pods == 0:
            updates.append(_release(workload, evicted, now))
        return _rest("Evicted", f"{evicted.get('reason', '')}: {evicted.get('message', '')}", actions=updates)
    if not workload.is_true("Admitted"):
        return _rest("WaitingForAdmission", _waiting(seen.queue, workload), actions=updates)
    if suspended:
        return _rest("Suspended", "the job is suspended and gives its quota back", actions=updates)
    if seen.admission is None:
        return replace(_rest("FlavorUnknown", seen.unplaced, actions=updates), retry=True)
    queue = (workload.admission or {}).get("clusterQueue", "")
    updates += _pods_ready(workload, running=seen.running, now=now)
    verdict = Verdict("Admitted", True, "Admitted", f"by ClusterQueue {queue} through LocalQueue {seen.queue}")
    return QueueDecision(True, verdict, seen.admission, tuple(updates))


def _without_kueue(seen: QueueObserved) -> QueueDecision:
    """Nothing starts. What was admitted goes on while Workloads merely cannot be read: nobody asked for its quota back.

    Whoever removes Kueue removes its Workloads, and with them every admission.
    """
    assert seen.trouble is not None
    reason, message = seen.trouble
    if seen.kept is not None and reason != ABSENT:
        return QueueDecision(True, Verdict("Admitted", None, reason, f"{message}; admitted before"), seen.kept)
    return _rest(reason, message)


def _without_workload(seen: QueueObserved, *, suspended: bool) -> QueueDecision:
    if suspended:
        return _rest("Suspended", "a suspended job does not queue")
    if seen.desired is None:
        reason = seen.impossible or seen.unready or ("NotBuilt", "")
        return replace(_rest(*reason), retry=seen.impossible is None)
    if seen.pods:
        return _rest("NotQueued", f"queues once its {seen.pods} pods are gone")
    if seen.refusal:
        return _rest("WorkloadRefused", seen.refusal, actions=[Apply(seen.desired)])
    message = f"waits in LocalQueue {seen.queue}"
    return _rest("WaitingForAdmission", message, actions=[Apply(seen.desired)])


def _ended(seen: QueueObserved, end: Verdict, now: float) -> QueueDecision:
    """Tell Kueue that the quota is free, once nothing runs any more that counts."""
    workload = seen.workload
    actions: list[Action] = []
    if workload is not None and not workload.deleting and seen.idle and not workload.is_true("Finished"):
        done = end.type == "Complete"
        reason = "Succeeded" if done else "Failed"
        actions.append(_patch(workload, [_raw(workload, "Finished", True, reason, end.message or end.reason, now)]))
    # What it was given is kept: the data manager that lingers must not be moved.
    return replace(_rest("Finished", "the job is over", actions=actions), admission=seen.kept)


def _rest(reason: str, message: str, *, actions: Sequence[Action] = ()) -> QueueDecision:
    return QueueDecision(False, Verdict("Admitted", False, reason, message), None, tuple(actions))


def _waiting(queue: str, workload: WorkloadView) -> str:
    """Kueue's own words, where it has said something."""
    if workload.is_true("QuotaReserved"):
        open_checks = [
            f"{check.get('name', '')} is {check.get('state', '')}"
            for check in workload.checks
            if check.get("state") != "Ready"
        ]
        return f"quota is reserved; admission check {', '.join(open_checks)}" if open_checks else "quota is reserved"
    told = workload.condition("QuotaReserved").get("message") or workload.condition("Evicted").get("message", "")
    return f"waits in LocalQueue {queue}: {told}" if told else f"waits in LocalQueue {queue}"


def _release(workload: WorkloadView, evicted: RawCondition, now: float) -> PatchStatus:
    """Give the reservation back, as Kueue's job framework does when a job has stopped."""
    reason, message = evicted.get("reason", "Evicted"), evicted.get("message", "")
    changes = [
        _raw(workload, "Requeued", reason in REQUEUED_AFTER, reason, message, now),
        _raw(workload, "QuotaReserved", False, "Pending", message, now),
    ]
    if workload.is_true("Admitted"):
        told = "The workload has no reservation"
        changes.append(_raw(workload, "Admitted", False, "NoReservation", told, now))
    if workload.is_true("PodsReady"):
        changes.append(_raw(workload, "PodsReady", False, "WaitForStart", "Not all pods are ready or succeeded", now))
    return _patch(workload, changes, {"admission": None})


def _pods_ready(workload: WorkloadView, *, running: bool, now: float) -> list[Action]:
    """Kueue evicts what does not become ready in its time (`waitForPodsReady`), so it is told."""
    told = workload.condition("PodsReady")
    if running == (told.get("status") == "True"):
        return []
    if not running:
        text = "At least one pod has failed, waiting for recovery"
        return [_patch(workload, [_raw(workload, "PodsReady", False, "WaitForRecovery", text, now)])]
    reason = "Recovered" if told.get("reason") in ("WaitForRecovery", "Recovered") else "Started"
    text = "All pods reached readiness and the workload is running"
    return [_patch(workload, [_raw(workload, "PodsReady", True, reason, text, now)])]


def _raw(workload: WorkloadView, type_: str, true: bool, reason: str, message: str, now: float) -> RawCondition:
    status = "True" if true else "False"
    before = workload.condition(type_)
    moved = before.get("status") != status
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message[:1024],
        "observedGeneration": workload.generation,
        "lastTransitionTime": timestamp(now) if moved else before["lastTransitionTime"],
    }


def _patch(
    workload: WorkloadView, changes: Sequence[RawCondition], further: Mapping[str, Any] | None = None
) -> PatchStatus:
    """Conditions are a list, which a merge patch replaces: the others go along, and only this version is patched."""
    changed = {each["type"] for each in changes}
    kept = [each for each in workload.conditions if each.get("type") not in changed]
    status = {"conditions": [*kept, *changes], **(further or {})}
    return PatchStatus("Workload", workload.name, workload.resource_version, status)


def _delete(workload: WorkloadView, reason: str) -> list[Action]:
    return [DeleteChild("Workload", workload.name, workload.uid, reason)]


def _annotation(manifest: Manifest, key: str) -> str:
    return str(manifest["metadata"]["annotations"].get(key, ""))
