"""The chart's roles are what the operator needs: nothing it asked for was denied, and nothing allowed is unused.

It reads what all scenarios before it made the operator do, so it comes last (see conftest.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from e2e.providers import Cluster
from e2e.providers.base import Feature, Json
from e2e.providers.chart import NAMESPACE
from shoal.neighbours.registry import ALL_RULES

pytestmark = [pytest.mark.slow, pytest.mark.needs(Feature.AUDIT), pytest.mark.last]

Use = tuple[str, str, str]
"""(group, resource with subresource, verb)."""


EVERYBODYS: set[Use] = {("authorization.k8s.io", "selfsubjectaccessreviews", "create")}
"""Kubernetes lets every account ask what it may do (`system:basic-user`); the operator does when it starts."""


def test_nothing_is_denied_and_nothing_unused(cluster: Cluster) -> None:
    denied, used = set[Use](), set[Use]()
    for event in requests_of_the_operator(cluster):
        (denied if is_denied(event) else used).add(use(event))
    assert used, "the audit log has nothing of the operator's account"
    assert denied == set()
    allowed = {
        (rule.group, resource, verb)
        for rule in ALL_RULES
        if not rule.when
        for resource in rule.resources
        for verb in rule.verbs
    }
    assert (used - allowed - EVERYBODYS, allowed - used) == (set(), set()), "not in the chart's list; never used"


def requests_of_the_operator(cluster: Cluster) -> Iterator[Json]:
    """Audit events of requests for resources by the operator's account."""
    assert cluster.audit_log is not None
    for line in cluster.audit_log.read_text().splitlines():
        event = json.loads(line)
        if event["user"]["username"].startswith(f"system:serviceaccount:{NAMESPACE}:") and "objectRef" in event:
            yield event


def is_denied(event: Json) -> bool:
    """Whether the account lacked a permission. 403 alone does not say so: a namespace that ends answers it as well."""
    return bool(event["annotations"]["authorization.k8s.io/decision"] != "allow")


def use(event: Json) -> Use:
    """What a request did."""
    reference = event["objectRef"]
    resource = "/".join(part for part in (reference["resource"], reference.get("subresource")) if part)
    return reference.get("apiGroup", ""), resource, event["verb"]
