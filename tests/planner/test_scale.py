"""The scale subresource: when the size is written into the spec, and what becomes of one that is out of bounds."""

from typing import Any

from shoal.controllers.fields import SCALE_MANAGER, reflects_scale, scaled_from_outside
from shoal.planner import conditions
from shoal.planner.actions import ReflectScale
from shoal.planner.scale import reflection, scaling_limited


def test_a_size_that_nobody_sets_is_kept_in_the_spec() -> None:
    assert reflection(None, None, 3, 0) == [ReflectScale(3)], "at once, so that an autoscaler finds a number"
    assert reflection(None, 3, 3, 3) == []
    assert reflection(None, 3, 5, 4) == [], "not while pods still follow"
    assert reflection(None, 3, 5, 5) == [ReflectScale(5)]


def test_a_size_that_somebody_sets_is_left_alone() -> None:
    assert reflection(2, None, 3, 3) == []


def entry(manager: str, field: str = "f:replicas", subresource: str = "") -> dict[str, Any]:
    return {"manager": manager, "subresource": subresource, "fieldsV1": {"f:spec": {field: {}}}}


def test_whose_size_it_is_stands_in_the_managed_fields() -> None:
    own, user, other = entry(SCALE_MANAGER), entry("kubectl-edit"), entry("helm", "f:environment")
    autoscaler = entry("kube-controller-manager", subresource="scale")
    assert reflects_scale({"managedFields": [own, other]})
    for pinned in ([own, user], [user], [autoscaler], [other], []):
        assert not reflects_scale({"managedFields": pinned})
    assert scaled_from_outside({"managedFields": [autoscaler, own]})
    assert not scaled_from_outside({"managedFields": [own, user, other]})


def test_a_size_above_the_bound_is_told_and_later_that_it_is_no_more() -> None:
    assert scaling_limited(None, 3, "spec.scale.max", []) == scaling_limited(3, 3, "spec.scale.max", []) == []
    (limited,) = scaling_limited(20, 10, "spec.scale.max", [])
    assert (limited.status, limited.message) == (True, "spec.replicas asks for 20, spec.scale.max allows 10")
    told = conditions.merge([], [limited], 1, 0.0)
    assert [each.status for each in scaling_limited(10, 10, "spec.scale.max", told)] == [False]
