"""What the operator's account asked the API server for, from its audit log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

LOG = "audit.log"
Use = tuple[str, str, str]
"""(group, resource with subresource, verb), as a rule allows it."""


def write_audit_policy(folder: Path) -> Sequence[str]:
    """Write the policy; returns the flags for kube-apiserver."""
    policy = folder / "audit.yaml"
    rule = {"level": "Metadata", "userGroups": ["system:serviceaccounts"], "omitStages": ["RequestReceived"]}
    body = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [rule, {"level": "None"}]}
    policy.write_text(yaml.safe_dump(body))
    return (f"--audit-policy-file={policy}", f"--audit-log-path={folder / LOG}", "--audit-log-mode=blocking")


@dataclass(frozen=True)
class Audited:
    """Requests of one account."""

    answered: frozenset[Use]
    denied: frozenset[Use]


def read_audit(folder: Path, namespace: str) -> Audited:
    """What the accounts of this namespace asked for so far."""
    answered, denied = set[Use](), set[Use]()
    for line in (folder / LOG).read_text().splitlines():
        event = json.loads(line)
        if event["user"]["username"].startswith(f"system:serviceaccount:{namespace}:") and "objectRef" in event:
            reference = event["objectRef"]
            resource = "/".join(part for part in (reference["resource"], reference.get("subresource")) if part)
            use = (reference.get("apiGroup", ""), resource, event["verb"])
            (denied if event["responseStatus"]["code"] == 403 else answered).add(use)
    return Audited(frozenset(answered), frozenset(denied))
