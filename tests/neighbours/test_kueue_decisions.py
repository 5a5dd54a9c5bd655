"""Jobs in a queue: the rules one by one, and a random history of Kueue, user and pods for the promises."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shoal.api.labels import SETS_HASH, SPEC_HASH
from shoal.api.v1alpha1.jobqueue import AdmissionStatus
from shoal.neighbours.kueue.decisions import QueueObserved, WorkloadView, plan_queue, view_workload
from shoal.planner.actions import Action, Apply, DeleteChild, PatchStatus
from shoal.planner.conditions import Verdict

Json = dict[str, Any]

DESIRED: Json = {"metadata": {"annotations": {SPEC_HASH: "spec", SETS_HASH: "sets"}}}
ADMISSION = AdmissionStatus(workload="w", fingerprint="one")


def condition(type_: str, true: bool, reason: str = "Because", message: str = "") -> Json:
    return {
        "type": type_,
        "status": "True" if true else "False",
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }


def workload(*conditions: Json, **changes: Any) -> WorkloadView:
    view = WorkloadView("w", "uid", "7", 1, False, "spec", "sets", conditions)
    return replace(view, **changes)


def seen(view: WorkloadView | None = None, **changes: Any) -> QueueObserved:
    return replace(QueueObserved(queue="team", workload=view, desired=DESIRED, admission=ADMISSION), **changes)


def decide(
    observed: QueueObserved, *, suspended: bool = False, end: Verdict | None = None
) -> tuple[bool, str, list[Action]]:
    decision = plan_queue(observed, suspended=suspended, end=end, now=100.0)
    return decision.runs, decision.verdict.reason if decision.verdict else "", list(decision.actions)


ADMITTED = workload(condition("QuotaReserved", True), condition("Admitted", True))
READY = workload(*ADMITTED.conditions, condition("PodsReady", True, "Started"))


def test_without_a_queue_everything_is_as_without_kueue() -> None:
    assert decide(seen(queue="")) == (True, "", [])
    (deletion,) = decide(seen(workload(), queue=""))[2]
    assert deletion == DeleteChild("Workload", "w", "uid", "LeftQueue")


def test_a_workload_is_made_once_no_pod_is_left() -> None:
    assert decide(seen(pods=2)) == (False, "NotQueued", [])
    assert decide(seen()) == (False, "WaitingForAdmission", [Apply(DESIRED)])
    assert decide(seen(), suspended=True) == (False, "Suspended", [])


def test_an_admitted_job_runs_and_a_reserved_one_does_not() -> None:
    assert decide(seen(workload(condition("QuotaReserved", True))))[:2] == (False, "WaitingForAdmission")
    assert decide(seen(ADMITTED)) == (True, "Admitted", [])
    assert decide(seen(ADMITTED), suspended=True)[:2] == (False, "Suspended")
    decision = plan_queue(seen(ADMITTED, admission=None, unplaced="no flavor"), suspended=False, end=None, now=0)
    assert (decision.runs, decision.retry) == (False, True)


def test_open_admission_checks_are_named() -> None:
    view = workload(condition("QuotaReserved", True), checks=[{"name": "provision", "state": "Pending"}])
    decision = plan_queue(seen(view), suspended=False, end=None, now=0)
    assert decision.verdict is not None
    assert "provision is Pending" in decision.verdict.message


def test_kueue_is_told_of_ready_pods_once() -> None:
    (patch,) = decide(seen(ADMITTED, running=True))[2]
    assert isinstance(patch, PatchStatus)
    assert [each["type"] for each in patch.status["conditions"]] == ["QuotaReserved", "Admitted", "PodsReady"]
    assert decide(seen(READY, running=True))[2] == []
    (lost,) = decide(seen(READY, running=False))[2]
    assert isinstance(lost, PatchStatus)
    assert lost.status["conditions"][-1]["reason"] == "WaitForRecovery"


def test_what_no_longer_fits_is_replaced_only_where_it_must_be() -> None:
    grown = {"metadata": {"annotations": {SPEC_HASH: "more", SETS_HASH: "more"}}}
    runs, reason, actions = decide(seen(ADMITTED, desired=grown))
    assert (runs, reason, actions) == (False, "OutOfSync", [DeleteChild("Workload", "w", "uid", "OutOfSync")])
    waiting = decide(seen(workload(), desired=grown))
    assert waiting == (False, "WaitingForAdmission", [Apply(grown)])
    urgent = {"metadata": {"annotations": {SPEC_HASH: "more", SETS_HASH: "sets"}}}
    assert decide(seen(ADMITTED, desired=urgent)) == (True, "Admitted", [Apply(urgent)])


def test_a_class_that_cannot_be_read_does_not_stop_what_runs() -> None:
    unknown = seen(ADMITTED, desired=None, unready=("PriorityClassUnknown", "no such class"))
    assert decide(unknown) == (True, "Admitted", [])
    assert decide(replace(unknown, workload=None)) == (False, "PriorityClassUnknown", [])


def test_workloads_that_cannot_be_read_stop_nothing_and_start_nothing() -> None:
    unread = seen(trouble=("KueueForbidden", "may not list"))
    assert decide(unread) == (False, "KueueForbidden", [])
    assert decide(replace(unread, kept=ADMISSION)) == (True, "KueueForbidden", [])
    assert decide(replace(unread, kept=ADMISSION, trouble=("KueueAbsent", "gone"))) == (False, "KueueAbsent", [])


def test_an_end_is_told_when_nothing_counts_any_more() -> None:
    end = Verdict("Failed", True, "DeadlineExceeded", "too long")
    assert decide(seen(ADMITTED, idle=False), end=end)[2] == []
    (patch,) = decide(seen(ADMITTED), end=end)[2]
    assert isinstance(patch, PatchStatus)
    last = patch.status["conditions"][-1]
    assert (last["type"], last["status"], last["reason"], last["message"]) == ("Finished", "True", "Failed", "too long")
    assert decide(seen(workload(condition("Finished", True))), end=end)[2] == []


STEPS = st.lists(
    st.sampled_from(["admit", "evict", "deactivate", "pod starts", "pod ends", "suspend", "resume", "delete", "look"]),
    max_size=40,
)


class FakeWorld:
    """A Workload as the API server and Kueue keep it, and pods that start only while the job runs."""

    def __init__(self) -> None:
        self.body: Json | None = None
        self.pods = 0
        self.suspended = False
        self.runs = False
        self.version = 1

    @property
    def view(self) -> WorkloadView | None:
        return None if self.body is None else view_workload(self.body)

    def do(self, step: str) -> None:
        view = self.view
        if step == "pod starts" and self.runs:
            self.pods += 1
        elif step == "pod ends":
            self.pods = max(0, self.pods - 1)
        elif step in ("suspend", "resume"):
            self.suspended = step == "suspend"
        elif view is not None and step == "delete":
            self.body = None
        elif view is not None and step == "admit" and not view.is_true("QuotaReserved"):
            assert self.pods == 0, "quota is reserved anew while pods of the last admission run"
            self._set(condition("QuotaReserved", True), condition("Admitted", True), condition("Evicted", False))
        elif view is not None and step in ("evict", "deactivate") and view.is_true("QuotaReserved"):
            self._set(condition("Evicted", True, "Preempted" if step == "evict" else "Deactivated"))

    def _set(self, *changes: Json) -> None:
        assert self.body is not None
        changed = {each["type"] for each in changes}
        kept = [each for each in self.body["status"]["conditions"] if each["type"] not in changed]
        self.body["status"]["conditions"] = [*kept, *changes]
        self._touch()

    def _touch(self) -> None:
        assert self.body is not None
        self.version += 1
        self.body["metadata"]["resourceVersion"] = str(self.version)

    def perform(self, action: Action) -> None:
        if isinstance(action, Apply) and self.body is None:
            assert self.pods == 0, "a Workload is made while pods run"
            metadata = {"name": "w", "uid": f"uid-{self.version}", "resourceVersion": str(self.version)}
            self.body = {"metadata": {**metadata, **DESIRED["metadata"]}, "status": {"conditions": []}}
        elif isinstance(action, PatchStatus) and self.body is not None:
            assert action.resource_version == self.body["metadata"]["resourceVersion"]
            before = {each["type"] for each in self.body["status"]["conditions"]}
            released = "admission" in action.status
            assert not released or self.pods == 0, "quota is given back while pods run"
            assert before <= {each["type"] for each in action.status["conditions"]}, "a condition of Kueue's is lost"
            self.body["status"] |= action.status
            self._touch()


@given(STEPS)
def test_pods_and_quota_never_part(steps: list[str]) -> None:
    """In every history: a job runs only while admitted, and quota is given back or taken only without pods."""
    world = FakeWorld()
    for step in [*steps, *["look", "pod ends"] * 40, "look", "look"]:
        world.do(step)
        view = world.view
        observed = seen(view, pods=world.pods, idle=world.pods == 0, running=world.runs)
        decision = plan_queue(observed, suspended=world.suspended, end=None, now=1000.0)
        world.runs = decision.runs and not world.suspended
        if world.runs:
            assert view is not None
            assert view.is_true("Admitted")
            assert not view.is_true("Evicted")
        for action in decision.actions:
            world.perform(action)
    settled = world.view
    if settled is not None and settled.is_true("Evicted"):
        assert not settled.is_true("QuotaReserved"), "an evicted job without pods keeps its quota"
