"""Whether the NetworkPolicies of a resource are as they were built: nobody lifts a security rule in silence."""

from collections.abc import Iterable, Sequence

from shoal.api.base import Condition
from shoal.planner.actions import Manifest
from shoal.planner.children import Present, drift_of, hash_of
from shoal.planner.conditions import Verdict
from shoal.planner.drift import LiveChild, difference
from shoal.planner.times import parse_timestamp

POLICIES_APPLIED = "PoliciesApplied"
LIFTED = "PolicyLifted"
TELL_SECONDS = 300.0
"""How long a lifted policy is told after it was repaired, which takes a second: an alert looks every minute or so."""


def policies_applied(
    children: Sequence[Manifest], present: Present, told: Iterable[Condition], now: float
) -> tuple[list[Verdict], float | None]:
    """The condition PoliciesApplied, and the seconds until it may change by itself.

    Args:
        children: the built objects of the resource; those that are no NetworkPolicy do not count.
        present: the children that exist.
        told: the resource's conditions as stored.
        now: seconds since the epoch.
    """
    policies = [child for child in children if child["kind"] == "NetworkPolicy"]
    before = next((each for each in told if each.type == POLICIES_APPLIED), None)
    if not policies:
        # A cluster without policies has no such condition, unless it had them once.
        off = Verdict(POLICIES_APPLIED, None, "PoliciesOff", "the operator is set to make no NetworkPolicies")
        return ([] if before is None else [off]), None
    amiss = next((text for child in policies if (text := _amiss(child, present))), "")
    if amiss and (before is None or before.reason == "Applying"):
        return [Verdict(POLICIES_APPLIED, False, "Applying", "NetworkPolicies are being made")], None
    if amiss:
        return [Verdict(POLICIES_APPLIED, False, LIFTED, f"{amiss}; it is applied again")], None
    if before is not None and before.status == "False" and before.reason == LIFTED:
        left = parse_timestamp(before.last_transition_time) + TELL_SECONDS - now
        if left > 0:
            return [Verdict(POLICIES_APPLIED, False, LIFTED, before.message)], left
    return [Verdict(POLICIES_APPLIED, True, "AsBuilt", f"{len(policies)} NetworkPolicies are as built")], None


def _amiss(child: Manifest, present: Present) -> str:
    """What is wrong with a policy; a change of Shoal's own that is about to be written is nothing wrong."""
    kind, name = child["kind"], child["metadata"]["name"]
    stored = present.get((kind, name))
    if stored is None:
        return f"{kind} {name} is missing"
    if not isinstance(stored, LiveChild) or hash_of(stored) != hash_of(LiveChild(child)):
        return ""
    field = difference(child, stored.body)
    return drift_of(child, stored, field) if field else ""
