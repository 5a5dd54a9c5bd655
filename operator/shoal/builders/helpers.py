"""Where helper pods (broker, gateway, data manager) run, and what they may use.

What the user's `helpers` says is part of a helper's template. Below that, and outside of its hash, lies what it takes
over from the pods that it serves, and Shoal's own figures.
"""

from collections.abc import Iterable
from typing import Any

from shoal.api.labels import LAID_UNDER, MAIN, Role
from shoal.api.v1alpha1.common import HelperPods, PodTemplate
from shoal.builders.defaults import filled
from shoal.builders.hashing import spec_hash
from shoal.builders.merge import strategic_merge

Manifest = dict[str, Any]

DEFAULT_RESOURCES: dict[str, Manifest] = {
    Role.BROKER: {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
    Role.GATEWAY: {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "4", "memory": "4Gi"}},
    Role.DATA: {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "4Gi"}},
}
"""Just started they hold 56, 62 and 75 MiB. The limits leave room for ten thousand members, for the tokens of all
requests that run, and for the batches on their way; without figures, a quota on resources refuses the pod."""

_TAKEN_OVER = ("tolerations", "imagePullSecrets")
"""What lets a pod run where those run that it serves. A node selector or an affinity is not among it: a gateway has no
place on a node that is chosen for its GPUs."""


def helper_template(helpers: HelperPods | None, own: PodTemplate | None = None) -> PodTemplate:
    """The template of a helper: what `helpers` says, with the role's own template (a data manager has one) over it."""
    own = own or PodTemplate()
    if helpers is None:
        return own
    spec = helpers.to_json()
    resources = spec.pop("resources", None)
    if resources:
        spec["containers"] = [{"name": MAIN, "resources": resources}]
    return own.model_copy(update={"spec": strategic_merge(spec, own.spec)})


def placed_helper(manifest: Manifest, role: str, served: Iterable[PodTemplate]) -> Manifest:
    """The helper with what it takes over from the pods that it serves, where its template says nothing itself.

    Args:
        manifest: the built pod.
        role: its role.
        served: the templates of the pods that it serves.
    """
    templates = [template.spec for template in served]
    priorities = [spec["priorityClassName"] for spec in templates if spec.get("priorityClassName")]

    def fill(spec: Manifest) -> None:
        main = next(container for container in spec["containers"] if container["name"] == MAIN)
        main.setdefault("resources", DEFAULT_RESOURCES[role])
        for key in _TAKEN_OVER:
            if key not in spec and (found := _distinct(item for each in templates for item in each.get(key) or ())):
                spec[key] = found
        if priorities:
            # Preempted before its members, a helper would take all of them along.
            spec.setdefault("priorityClassName", priorities[0])

    placed = filled(manifest, fill)
    kept = {key: placed["spec"].get(key) for key in (*_TAKEN_OVER, "priorityClassName")}
    placed["metadata"]["annotations"][LAID_UNDER] = spec_hash(kept)
    return placed


def _distinct(items: Iterable[Any]) -> list[Any]:
    kept: list[Any] = []
    for item in items:
        if item not in kept:
            kept.append(item)
    return kept
