"""The pod that every role's pod starts from."""

from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import BaseModel

from shoal.api.labels import (
    MAIN,
    MANAGED_BY,
    MANAGER,
    PORTS,
    PREVIOUS_TOKEN_KEY,
    ROLE,
    SPEC_HASH,
    TOKEN_KEY,
    TOKENS_VARIABLE,
)
from shoal.api.v1alpha1.common import PodTemplate
from shoal.builders.hashing import spec_hash
from shoal.builders.images import Images
from shoal.builders.merge import strategic_merge
from shoal.builders.owner import Owner
from shoal.builders.security import CONTAINER_SECURITY, POD_SECURITY, scratch_mounts, scratch_volumes

Manifest = dict[str, Any]

TOKENS_VOLUME = "shoal-tokens"
TOKENS_MOUNT = "/var/run/shoal/tokens"
_TOKENS_MOUNTED: Manifest = {"name": TOKENS_VOLUME, "mountPath": TOKENS_MOUNT, "readOnly": True}

_DOWNWARD = {
    "POD_IP": "status.podIP",
    "POD_NAME": "metadata.name",
    "POD_NAMESPACE": "metadata.namespace",
    "POD_UID": "metadata.uid",
}


@dataclass(frozen=True)
class PodPlan:
    """What distinguishes one role's pod from another's.

    Args:
        role: the pod's role; its program is `python -m shoal_workers.<package>`.
        package: package of shoal_workers; the role's own name unless it differs.
        image: container image; a node that runs processes ignores it.
        config: the role's whole configuration, handed over as JSON.
        tokens: what a token is for (the pod's own service, or one that it calls) -> Secret that holds it.
        name: exact name of a pod that must exist at most once; empty for a generated one.
        labels: labels beyond role and owner.
        volumes: pod volumes, and `mounts` where they appear.
        template: the user's template, laid over the result.
        restart_policy: Always, OnFailure or Never.
        grace_seconds: time between SIGTERM and SIGKILL.
        startup_seconds: how long a pod may take until it first answers.
        spec: further PodSpec fields.
    """

    role: str
    image: str
    config: BaseModel
    tokens: dict[str, str]
    package: str = ""
    name: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    volumes: list[Manifest] = field(default_factory=list)
    mounts: list[Manifest] = field(default_factory=list)
    template: PodTemplate = field(default_factory=PodTemplate)
    restart_policy: str = "Always"
    grace_seconds: int = 30
    startup_seconds: int = 60
    spec: Manifest = field(default_factory=dict)


def build_pod(owner: Owner, plan: PodPlan, images: Images) -> Manifest:
    """The whole pod, with its hash in an annotation; two equal plans give equal pods."""
    labels = {**plan.template.metadata.labels, **plan.labels}
    labels |= {MANAGED_BY: MANAGER, ROLE: plan.role, owner.label: owner.name}
    naming = {"name": plan.name} if plan.name else {"generateName": f"{owner.name}-{plan.role}-"}
    spec = images.pulled(strategic_merge(_spec(plan), plan.template.spec))
    annotations = dict(plan.template.metadata.annotations)
    digest = spec_hash({"labels": labels, "annotations": annotations, "spec": spec})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **naming,
            "namespace": owner.namespace,
            "labels": labels,
            "annotations": {**annotations, SPEC_HASH: digest},
            "ownerReferences": [owner.reference()],
        },
        "spec": spec,
    }


def _spec(plan: PodPlan) -> Manifest:
    return {
        "restartPolicy": plan.restart_policy,
        "terminationGracePeriodSeconds": plan.grace_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        "containers": [_container(plan)],
        "volumes": [*plan.volumes, _tokens(plan.tokens), *scratch_volumes(plan.role)],
        **plan.spec,
    }


def _container(plan: PodPlan) -> Manifest:
    port = PORTS[plan.role]
    config = plan.config.model_dump_json(exclude_none=True)
    return {
        "name": MAIN,
        "image": plan.image,
        "command": ["python", "-m", f"shoal_workers.{plan.package or plan.role}"],
        "env": [
            *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in _DOWNWARD.items()),
            {"name": TOKENS_VARIABLE, "value": TOKENS_MOUNT},
            {"name": "SHOAL_CONFIG", "value": orjson.dumps(orjson.loads(config), option=orjson.OPT_SORT_KEYS).decode()},
        ],
        "ports": [{"name": "http", "containerPort": port, "protocol": "TCP"}],
        "volumeMounts": [*plan.mounts, _TOKENS_MOUNTED, *scratch_mounts(plan.role)],
        "securityContext": CONTAINER_SECURITY,
        "startupProbe": _probe("/healthz", port, period=1, failures=plan.startup_seconds),
        "readinessProbe": _probe("/readyz", port, period=2, failures=2),
        "livenessProbe": _probe("/healthz", port, period=5, failures=6),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _probe(path: str, port: int, *, period: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _tokens(tokens: dict[str, str]) -> Manifest:
    """The volume with a folder for each token; the node writes its files anew when a Secret changes."""
    keys = (TOKEN_KEY, PREVIOUS_TOKEN_KEY)
    sources = [
        {"secret": {"name": secret, "items": [{"key": key, "path": f"{purpose}/{key}"} for key in keys]}}
        for purpose, secret in sorted(tokens.items())
    ]
    return {"name": TOKENS_VOLUME, "projected": {"sources": sources}}


def hash_of(manifest: Manifest) -> str:
    """The hash that `build_pod` put on a pod."""
    digest: str = manifest["metadata"]["annotations"][SPEC_HASH]
    return digest


def shoal_labels(labels: dict[str, str]) -> dict[str, str]:
    """The labels that Shoal itself put on a pod, for the object of another operator that the pod is made from."""
    return {key: value for key, value in labels.items() if key.startswith("rl.shoal.dev/") or key == MANAGED_BY}
