"""A service account with the operator's permissions, or all but some, on a real API server."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from shoal.neighbours.registry import ALL_RULES
from tests.kubernetes import Kubernetes

Json = dict[str, Any]
NAME = "operator"


def rules(without: Iterable[tuple[str, str]] = ()) -> list[Json]:
    """The operator's rules as a role has them, less some (verb, resource)."""
    lost = set(without)
    found = []
    for rule in ALL_RULES:
        for resource in rule.resources:
            verbs = [verb for verb in rule.granted if (verb, resource) not in lost]
            if verbs:
                found.append({"apiGroups": [rule.group], "resources": [resource], "verbs": verbs})
    return found


def grant(kubernetes: Kubernetes, *without: tuple[str, str]) -> None:
    """Make or change the account's role in the test's namespace."""
    namespace = kubernetes.namespace
    role = {"kind": "Role", "metadata": {"name": NAME, "namespace": namespace}, "rules": rules(without)}
    binding = {
        "kind": "RoleBinding",
        "metadata": {"name": NAME, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": namespace}],
    }
    bodies = [{"apiVersion": "rbac.authorization.k8s.io/v1", **body} for body in (role, binding)]
    kubernetes.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(bodies))


def account(kubernetes: Kubernetes, folder: Path) -> Path:
    """Make the account, without any permission, and return a kubeconfig for it."""
    kubernetes.kubectl("create", "serviceaccount", NAME)
    token = kubernetes.kubectl("create", "token", NAME).strip()
    return kubernetes.server.write_kubeconfig(
        folder / "account.kubeconfig", namespace=kubernetes.namespace, token=token
    )
