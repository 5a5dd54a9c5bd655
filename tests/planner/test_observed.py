"""What a pod's status means: whether its role has ended, whose fault an end is, and when a pod counts as lost."""

from typing import Any

import pytest

from shoal.planner.observed import LOST_SECONDS, PodView, view

Json = dict[str, Any]
DELETED = "2026-01-01T00:00:30Z"
"""Kubernetes writes the time at which the grace is over, not that of the request."""


def ended(code: int = 0, reason: str = "", at: str = "2026-01-01T00:00:10Z") -> Json:
    return {"terminated": {"exitCode": code, "reason": reason or ("Error" if code else "Completed"), "finishedAt": at}}


def container(name: str = "main", state: Json | None = None, last: Json | None = None, restarts: int = 0) -> Json:
    running = {"running": {"startedAt": "2026-01-01T00:00:01Z"}}
    return {"name": name, "state": state or running, "lastState": last or {}, "restartCount": restarts}


def pod(*containers: Json, phase: str = "Running", policy: str = "Never", **more: Any) -> Json:
    status = {"phase": phase, "containerStatuses": list(containers), **more.pop("status", {})}
    metadata = {
        "name": "p",
        "uid": "u",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"rl.shoal.dev/role": "trainer"},
        **more.pop("metadata", {}),
    }
    return {"metadata": metadata, "spec": {"restartPolicy": policy, **more}, "status": status}


def disrupted(reason: str) -> Json:
    return {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason}]}


@pytest.mark.parametrize(
    ("policy", "state", "phase"),
    [
        ("Never", ended(0), "Succeeded"),
        ("Never", ended(3), "Failed"),
        ("OnFailure", ended(0), "Succeeded"),
        ("OnFailure", ended(3), "Running"),
        ("Always", ended(0), "Running"),
        ("Never", None, "Running"),
    ],
)
def test_a_role_has_ended_when_its_main_container_has(policy: str, state: Json | None, phase: str) -> None:
    seen = view(pod(container("istio-proxy"), container(state=state), policy=policy))
    assert seen.phase == phase
    assert seen.finished is (phase in ("Succeeded", "Failed"))


def test_restarts_of_a_sidecar_are_not_the_roles() -> None:
    proxy = container("istio-proxy", last=ended(1), restarts=7)
    native = container("mesh", restarts=5)
    spec = {"initContainers": [{"name": "mesh", "restartPolicy": "Always"}, {"name": "fetch"}]}
    early = [native, container("fetch", last=ended(1), restarts=2)]
    seen = view(pod(proxy, container(restarts=1), status={"initContainerStatuses": early}, **spec))
    assert seen.restarts == 3


@pytest.mark.parametrize(
    ("seen", "own"),
    [
        (pod(container(state=ended(1)), phase="Failed"), True),
        (pod(container(state=ended(137, "OOMKilled")), phase="Failed"), True),
        (pod(container(last=ended(2), restarts=1), policy="Always"), True),
        # The machine was restarted, or its runtime lost the container.
        (pod(container(last=ended(255, "Unknown"), restarts=1), policy="Always"), False),
        (pod(container(last=ended(137, "ContainerStatusUnknown"), restarts=1), policy="Always"), False),
        # The laptop's control plane was stopped.
        (pod(container(last=ended(143, "NodeShutdown"), restarts=1), policy="Always"), False),
        # Turned away by the node before anything ran.
        (pod(phase="Failed", status={"reason": "OutOfcpu"}), False),
        (pod(container(), phase="Failed", status={"reason": "Evicted"}), False),
        # Of several ends the newest says whose fault it is.
        (pod(container(state=ended(1, at="2026-01-01T00:09:00Z"), last=ended(255, "Unknown"), restarts=1)), True),
        (pod(container(state=ended(255, "Unknown", "2026-01-01T00:09:00Z"), last=ended(1), restarts=1)), False),
    ],
)
def test_whose_fault_an_end_is(seen: Json, own: bool) -> None:
    assert view(seen).own_fault is own


@pytest.mark.parametrize("reason", ["PreemptionByScheduler", "EvictionByEvictionAPI", "TerminationByKubelet"])
def test_a_disruption_is_seen_by_its_condition(reason: str) -> None:
    assert view(pod(container(), status=disrupted(reason))).disrupted == reason
    assert view(pod(container())).disrupted == ""


def test_a_pod_is_lost_a_little_after_its_grace() -> None:
    leaving = view(pod(container(), metadata={"deletionTimestamp": DELETED}))
    over = leaving.grace_until
    assert over is not None
    assert leaving.lost_at == over + LOST_SECONDS
    assert not leaving.lost(over + LOST_SECONDS - 0.1)
    assert leaving.lost(over + LOST_SECONDS)
    assert not view(pod(container())).lost(over * 2)


def test_which_pods_hold_their_place() -> None:
    def of(body: Json) -> PodView:
        return view(body)

    leaving = {"metadata": {"deletionTimestamp": DELETED}}
    now = of(pod(container(), **leaving)).grace_until or 0.0
    assert of(pod(container())).holds_place(now)
    assert of(pod(container(), status=disrupted("EvictionByEvictionAPI"))).holds_place(now)  # it may still be spared
    assert of(pod(container(), metadata={"deletionTimestamp": DELETED})).holds_place(now)
    gone = pod(container(), metadata={"deletionTimestamp": DELETED}, status=disrupted("DeletionByTaintManager"))
    assert not of(gone).holds_place(now)
    assert not of(pod(container(), metadata={"deletionTimestamp": DELETED})).holds_place(now + LOST_SECONDS)


def failed(code: int, message: str, *, running: bool, ready: bool = False) -> Json:
    """A container that has ended with this code, and runs again or waits to."""
    end = {
        "terminated": {"exitCode": code, "reason": "Error", "message": message, "finishedAt": "2026-01-01T00:00:01Z"}
    }
    now = {"running": {}} if running else {"waiting": {"reason": "CrashLoopBackOff"}}
    return {"name": "main", "restartCount": 1, "ready": ready, "state": now, "lastState": end}


def test_a_cause_stays_until_the_next_attempt_has_shown_that_it_works() -> None:
    said = [view(pod(failed(1, "no such folder", running=running), policy="Always")) for running in (True, False)]
    assert [seen.trouble.message for seen in said if seen.trouble] == ["no such folder"] * 2
    works = view(pod(failed(1, "no such folder", running=True, ready=True), policy="Always"))
    assert (works.trouble, works.last_words) == (None, "no such folder")


@pytest.mark.parametrize(("code", "incurable"), [(1, ""), (2, "folder: permission denied"), (137, "")])
def test_a_wrong_configuration_is_told_from_other_failures(code: int, incurable: str) -> None:
    seen = view(pod(failed(code, "folder: permission denied", running=True, ready=True), policy="Always"))
    assert (seen.incurable, seen.last_words) == (incurable, "folder: permission denied")
    without_words = view(pod(failed(code, "", running=False), policy="Always"))
    assert without_words.last_words == f"Error (exit code {code})"
