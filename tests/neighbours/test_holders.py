"""Sandboxes and LeaderWorkerSets as plans see them."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shoal.api.labels import SPEC_HASH
from shoal.neighbours.lws.neighbour import LeaderWorkerSets
from shoal.neighbours.sandbox.neighbour import AgentSandbox
from shoal.planner.holders import Held, as_pod
from shoal.planner.observed import Holder, PodView, Trouble

SANDBOX, LEADER_WORKER_SET = AgentSandbox.kind, LeaderWorkerSets.kind
READ = {SANDBOX: AgentSandbox.read, LEADER_WORKER_SET: LeaderWorkerSets.read}


def held(kind: str = SANDBOX, *, deleting: bool = False) -> Held:
    labels = {"rl.shoal.dev/role": "environment", "rl.shoal.dev/variant": "default"}
    metadata: dict[str, Any] = {
        "name": "x",
        "uid": "holder",
        "creationTimestamp": "1970-01-01T00:00:01Z",
        "labels": labels,
    }
    metadata["annotations"] = {SPEC_HASH: "h1"}
    return READ[kind]({"metadata": metadata | ({"deletionTimestamp": "1970-01-01T00:00:02Z"} if deleting else {})})


def pod(name: str = "x", **fields: Any) -> PodView:
    values: dict[str, Any] = {"phase": "Running", "ready": True, "deleting": False, "spec_hash": "other"}
    return PodView(name=name, uid="pod", role="engine", created_at=2.0, **(values | fields))


def test_identity_and_template_are_the_holders_and_readiness_is_the_pods() -> None:
    view = as_pod(held(), [pod(ip="10.0.0.1")])
    assert (view.name, view.uid, view.spec_hash, view.role) == ("x", "holder", "h1", "environment")
    assert (view.ready, view.ip, view.created_at) == (True, "10.0.0.1", 1.0)
    assert view.holder == Holder(SANDBOX, "x")


def test_no_pod_yet_is_a_pending_one() -> None:
    view = as_pod(held(), [])
    assert (view.phase, view.ready, view.finished) == ("Pending", False, False)


def test_a_pod_that_is_going_serves_no_more_though_its_holder_stays() -> None:
    view = as_pod(held(), [pod(deleting=True)])
    assert (view.ready, view.deleting) == (False, False)


def test_a_sandboxs_pod_that_has_ended_ends_the_member_and_a_groups_is_made_anew() -> None:
    assert as_pod(held(), [pod(phase="Succeeded", ready=False)]).finished
    assert not as_pod(held(LEADER_WORKER_SET), [pod("x-0", phase="Failed", ready=False)]).finished


def test_a_group_is_ready_with_its_leader_and_in_trouble_with_any_of_its_pods() -> None:
    trouble = Trouble("OOMKilled", "")
    view = as_pod(held(LEADER_WORKER_SET), [pod("x-0-1", ready=False, trouble=trouble, restarts=2), pod("x-0")])
    assert (view.name, view.ready, view.trouble, view.restarts) == ("x-0", True, trouble, 2)
    assert not as_pod(held(LEADER_WORKER_SET), [pod("x-0-1")]).ready


def test_what_the_other_operator_cannot_do_is_trouble() -> None:
    message = "Error seen: pods is forbidden: exceeded quota"
    condition = {"type": "Ready", "status": "False", "reason": "ReconcilerError", "message": message}
    body = {
        "metadata": {"name": "x", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"conditions": [condition]},
    }
    assert as_pod(AgentSandbox.read(body), []).trouble == Trouble("CannotStart", message)


@given(
    kind=st.sampled_from([SANDBOX, LEADER_WORKER_SET]),
    deleting=st.booleans(),
    pods=st.lists(
        st.builds(
            pod,
            st.sampled_from(["x", "x-0", "x-0-1", "y"]),
            ready=st.booleans(),
            deleting=st.booleans(),
            phase=st.sampled_from(["Pending", "Running", "Succeeded", "Failed"]),
        ),
        max_size=4,
    ),
)
def test_a_holder_is_one_pod_whatever_it_has(kind: str, deleting: bool, pods: list[PodView]) -> None:
    view = as_pod(held(kind, deleting=deleting), pods)
    assert (view.uid, view.deleting) == ("holder", deleting)
    assert not (view.ready and view.finished)
    assert not view.ready or any(each.ready and each.name == view.name for each in pods)
