"""Roles that exist at most once: when their pod goes, and who is given up with a node that answers no more."""

import pytest

from shoal.api.labels import SPEC_HASH, Role
from shoal.planner.actions import CreatePod, DeletePod
from shoal.planner.observed import LOST_SECONDS, Expected, PodView
from shoal.planner.singleton import plan_singleton

MANIFEST = {"kind": "Pod", "metadata": {"name": "x", "annotations": {SPEC_HASH: "h"}}}
GRACE = 100.0


def pod(role: str, **fields: object) -> PodView:
    values = {"spec_hash": "h", "phase": "Running", "ready": True, "deleting": False, "created_at": 0.0}
    return PodView(name="x", uid="x", role=role, **(values | fields))  # type: ignore[arg-type]


def leaving(role: str, **fields: object) -> PodView:
    return pod(role, deleting=True, grace_until=GRACE, **fields)


@pytest.mark.parametrize("role", [Role.BROKER, Role.GATEWAY])
def test_a_stateless_one_is_given_up_with_its_node(role: str) -> None:
    def plan(now: float, expected: Expected) -> list[object]:
        return list(plan_singleton(role, [leaving(role)], MANIFEST, expected, wanted=True, now=now))

    assert plan(GRACE, Expected()) == []
    assert plan(GRACE + LOST_SECONDS, Expected()) == [DeletePod(role, "x", "x", "Lost", force=True)]
    assert plan(GRACE + LOST_SECONDS, Expected(deletions=frozenset({"x"}))) == []
    assert plan_singleton(role, [], MANIFEST, Expected(), wanted=True, now=0.0) == [CreatePod(role, MANIFEST)]


@pytest.mark.parametrize("role", [Role.DATA, Role.TRAINER])
def test_one_that_may_still_write_is_waited_for(role: str) -> None:
    late = GRACE + 1e6
    assert plan_singleton(role, [leaving(role)], MANIFEST, Expected(), wanted=True, now=late) == []
    over = leaving(role, phase="Failed", ready=False)
    (action,) = plan_singleton(role, [over], MANIFEST, Expected(), wanted=True, now=late)
    assert isinstance(action, DeletePod)
    assert action.force


def test_an_evicted_one_makes_room_for_the_next() -> None:
    evicted = pod(Role.DATA, phase="Failed", ready=False, disrupted="TerminationByKubelet")
    assert plan_singleton(Role.DATA, [evicted], MANIFEST, Expected(), wanted=True, now=0.0) == [
        DeletePod(Role.DATA, "x", "x", "Finished")
    ]
