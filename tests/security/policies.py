"""What NetworkPolicies mean, as Kubernetes defines it: a connection passes when both ends let it.

An end lets everything through while no policy of that direction selects it, and otherwise what one rule of one of
those policies allows. (networking.k8s.io/v1; of `matchExpressions` Shoal uses `In` alone. A named port is asked for by
its name.)
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod, or an address outside when it has no namespace."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""
    address: str = "10.244.0.9"

    @property
    def namespace_labels(self) -> dict[str, str]:
        """The label that every namespace has."""
        return {"kubernetes.io/metadata.name": self.namespace}


def passes(policies: Sequence[Json], source: End, target: End, port: int | str, protocol: str = "TCP") -> bool:
    """Whether a connection is let through by its source and by its target."""
    return _lets("Egress", policies, source, target, port, protocol) and _lets(
        "Ingress", policies, target, source, port, protocol
    )


def _lets(direction: str, policies: Sequence[Json], end: End, other: End, port: int | str, protocol: str) -> bool:
    selecting = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == end.namespace
        and direction in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], end.labels)
    ]
    rules = [rule for spec in selecting for rule in spec.get(direction.lower()) or ()]
    side = "to" if direction == "Egress" else "from"
    namespace = end.namespace
    return not selecting or any(
        _port(rule, port, protocol) and _peer(rule.get(side), other, namespace) for rule in rules
    )


def _port(rule: Json, port: int | str, protocol: str) -> bool:
    ports = rule.get("ports")
    return not ports or any(each["port"] == port and each["protocol"] == protocol for each in ports)


def _peer(peers: Sequence[Json] | None, other: End, namespace: str) -> bool:
    """No peers means everybody."""
    return not peers or any(_matches(peer, other, namespace) for peer in peers)


def _matches(peer: Json, other: End, namespace: str) -> bool:
    if "ipBlock" in peer:
        address, block = ipaddress.ip_address(other.address), peer["ipBlock"]
        held = [block["cidr"], *block.get("except", ())]
        inside = [address.version == ipaddress.ip_network(each).version and address in ipaddress.ip_network(each)
                  for each in held]  # fmt: skip
        return inside[0] and not any(inside[1:])
    if not other.namespace:
        return False
    if "namespaceSelector" in peer:
        there = _selects(peer["namespaceSelector"], other.namespace_labels)
    else:
        there = other.namespace == namespace
    return there and _selects(peer.get("podSelector", {}), other.labels)


def _selects(selector: Json, labels: Mapping[str, str]) -> bool:
    assert set(selector) <= {"matchLabels", "matchExpressions"}, selector
    expressions = selector.get("matchExpressions", ())
    assert all(each["operator"] == "In" for each in expressions), selector
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )
