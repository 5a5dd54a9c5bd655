"""What is drift and what is not; and that a lifted policy is told for a while."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.api.base import Condition
from shoal.api.v1alpha1.environmentpool import Isolation
from shoal.builders import environment
from shoal.builders.children import build_service
from shoal.builders.network import NetworkSettings, pool_policies
from shoal.planner import conditions
from shoal.planner.actions import Apply
from shoal.planner.children import changed_children
from shoal.planner.drift import LiveChild, difference
from shoal.planner.policies import LIFTED, TELL_SECONDS, policies_applied

Json = dict[str, Any]

OWNER = environment.pool_owner("lake", "team", "u1")
SERVICE = build_service(OWNER, "broker")
POLICIES = pool_policies(OWNER, Isolation(), NetworkSettings(scrapers=["monitoring"]))
MEMBERS = POLICIES[0]
KEY = ("NetworkPolicy", MEMBERS["metadata"]["name"])


def stored(child: Json) -> Json:
    """As an API server returns it: with its own defaults, and less what is empty."""
    body = deepcopy(child)
    body["metadata"] |= {"uid": "x", "resourceVersion": "7"}
    if child["kind"] == "Service":
        body["spec"] |= {"clusterIP": "10.0.0.1", "sessionAffinity": "None", "ipFamilies": ["IPv4"]}
    return body


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all scalars below."""
    if isinstance(value, dict):
        return [leaf for key, each in value.items() for leaf in leaves(each, (*path, key))]
    if isinstance(value, list):
        return [leaf for index, each in enumerate(value) for leaf in leaves(each, (*path, index))]
    return [path]


def change(body: Json, path: tuple[Any, ...], value: Any) -> Json:
    changed = deepcopy(body)
    at: Any = changed
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return changed


@pytest.mark.parametrize("child", [SERVICE, *POLICIES], ids=lambda child: child["metadata"]["name"])
def test_an_object_as_the_server_returns_it_is_no_drift(child: Json) -> None:
    assert difference(child, stored(child)) == ""


@given(st.data())
def test_any_changed_field_is_drift(data: st.DataObject) -> None:
    child = data.draw(st.sampled_from([SERVICE, *POLICIES]))
    path = data.draw(st.sampled_from(leaves(child["spec"], ("spec",))))
    changed = change(stored(child), path, "another")
    assert difference(child, changed).startswith("spec.")


@pytest.mark.parametrize(
    ("child", "path", "value", "found"),
    [
        (SERVICE, ("spec", "selector", "app"), "web", "spec.selector"),
        (SERVICE, ("spec", "ports"), [], "spec.ports"),
        (SERVICE, ("metadata", "labels", "app.kubernetes.io/managed-by"), "helm", "metadata.labels"),
        (SERVICE, ("metadata", "ownerReferences"), [], "metadata.ownerReferences"),
        (SERVICE, ("metadata", "annotations", "mesh"), "on", ""),
        (SERVICE, ("spec", "ports"), [{"port": 1}, *SERVICE["spec"]["ports"]], ""),
        (MEMBERS, ("spec", "ingress"), [{}], "spec.ingress"),
        (MEMBERS, ("spec", "egress"), [*MEMBERS["spec"]["egress"], {}], "spec.egress"),
        (MEMBERS, ("spec", "ingress", 0, "ports"), None, "spec.ingress"),
        (MEMBERS, ("spec", "podSelector", "matchLabels", "x"), "y", "spec.podSelector"),
        (MEMBERS, ("spec", "policyTypes"), ["Ingress"], "spec.policyTypes"),
    ],
)
def test_what_counts(child: Json, path: tuple[Any, ...], value: Any, found: str) -> None:
    seen = difference(child, change(stored(child), path, value))
    assert seen.startswith(found) if found else seen == ""


def test_a_rule_that_lets_nobody_in_is_left_out_by_the_server() -> None:
    (closed,) = (each for each in pool_policies(OWNER, Isolation(), NetworkSettings()) if each["spec"].get("egress"))
    closed["spec"]["ingress"] = []
    assert difference(closed, change(stored(closed), ("spec", "ingress"), None)) == ""
    assert difference(closed, change(stored(closed), ("spec", "ingress"), [{}])) == "spec.ingress"


def test_a_change_of_shoals_own_is_written_without_a_word_and_drift_with_one() -> None:
    newer = pool_policies(OWNER, Isolation(), NetworkSettings(operator_namespace="system", scrapers=["monitoring"]))[1]
    (own,) = changed_children([newer], {(*KEY[:1], newer["metadata"]["name"]): LiveChild(stored(POLICIES[1]))})
    assert isinstance(own, Apply)
    assert own.drift == ""
    lifted = LiveChild(change(stored(MEMBERS), ("spec", "ingress"), [{}]), "7", "kubectl-edit")
    (repair,) = changed_children([MEMBERS], {KEY: lifted})
    assert isinstance(repair, Apply)
    assert (repair.manifest, repair.version) == (MEMBERS, "7")
    assert "spec.ingress was changed by kubectl-edit" in repair.drift
    assert changed_children([MEMBERS], {KEY: LiveChild(stored(MEMBERS))}) == []


def told(present: Json, before: list[Condition], now: float) -> tuple[list[Condition], float | None]:
    verdicts, wait = policies_applied([MEMBERS], present, before, now)
    return conditions.merge(before, verdicts, 1, now), wait


def test_a_lifted_policy_is_told_until_a_while_after_its_repair() -> None:
    good: Json = {KEY: LiveChild(stored(MEMBERS))}
    bad: Json = {KEY: LiveChild(change(stored(MEMBERS), ("spec", "ingress"), [{}]))}
    seen, _ = told({}, [], 0.0)
    assert (seen[0].status, seen[0].reason) == ("False", "Applying")
    seen, _ = told(good, seen, 1.0)
    assert (seen[0].status, seen[0].reason) == ("True", "AsBuilt")
    for present in (bad, {}):
        lifted, _ = told(present, seen, 100.0)
        assert (lifted[0].status, lifted[0].reason) == ("False", LIFTED)
        repaired, wait = told(good, lifted, 101.0)
        assert (repaired[0].status, wait) == ("False", TELL_SECONDS - 1)
        assert repaired[0].message == lifted[0].message
        over, wait = told(good, repaired, 100.0 + TELL_SECONDS)
        assert (over[0].status, wait) == ("True", None)


def test_without_policies_there_is_no_condition() -> None:
    assert policies_applied([SERVICE], {}, [], 0.0) == ([], None)
