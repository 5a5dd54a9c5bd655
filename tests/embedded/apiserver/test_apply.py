"""Server-side apply and patches as pure functions."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_embedded.apiserver.apply import apply
from shoal_embedded.apiserver.errors import StatusError
from shoal_embedded.apiserver.patches import json_patch, merge_patch, strategic_merge_patch

Json = dict[str, Any]
NOW = "2026-01-01T00:00:00Z"


def applied(live: Json | None, manager: str, spec: Json, *, force: bool = False) -> Json:
    config = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}
    return apply(live, config, manager, force=force, schema=None, now=NOW)


def containers(*names: str, **fields: str) -> Json:
    return {"containers": [{"name": name, **fields} for name in names]}


def test_list_items_belong_to_who_applied_them() -> None:
    live = applied(None, "one", containers("a", "b"))
    live = applied(live, "two", containers("c"))
    assert [each["name"] for each in live["spec"]["containers"]] == ["a", "b", "c"]
    live = applied(live, "one", containers("b"))
    assert [each["name"] for each in live["spec"]["containers"]] == ["b", "c"]


def test_a_field_of_another_needs_force_and_changes_owner() -> None:
    live = applied(None, "one", containers("a", image="x"))
    with pytest.raises(StatusError) as refusal:
        applied(live, "two", containers("a", image="y"))
    assert refusal.value.code == 409
    assert refusal.value.details["causes"][0]["field"] == '.spec.containers[name="a"].image'
    live = applied(live, "two", containers("a", image="y"), force=True)
    live = applied(live, "one", {})
    assert live["spec"]["containers"] == [{"name": "a", "image": "y"}]


def test_what_is_applied_again_is_the_same() -> None:
    live = applied(None, "one", containers("a", image="x"))
    assert applied(live, "one", containers("a", image="x")) == live


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({"spec": {"containers": [{"name": "b", "image": "y"}]}}, ["b:y", "a:x"]),
        ({"spec": {"containers": [{"name": "a", "image": "z"}]}}, ["a:z"]),
        ({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}, []),
    ],
)
def test_strategic_patches_merge_lists_by_key(patch: Json, expected: list[str]) -> None:
    patched = strategic_merge_patch({"spec": containers("a", image="x")}, patch)
    assert [f"{each['name']}:{each['image']}" for each in patched["spec"]["containers"]] == expected


def test_json_patches_do_all_or_nothing() -> None:
    before = {"a": {"b/c": [1, 2]}}
    operations = [{"op": "add", "path": "/a/b~1c/-", "value": 3}, {"op": "remove", "path": "/a/b~1c/0"}]
    assert json_patch(before, operations) == {"a": {"b/c": [2, 3]}}
    with pytest.raises(StatusError):
        json_patch(before, [*operations, {"op": "test", "path": "/a", "value": {}}])
    assert before == {"a": {"b/c": [1, 2]}}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("abc"), VALUES), st.dictionaries(st.sampled_from("abc"), VALUES))
def test_a_merge_patch_twice_is_a_merge_patch_once(target: Json, patch: Json) -> None:
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
