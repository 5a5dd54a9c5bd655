"""What Shoal lays under a pod after its hash is taken: settings that a user's own replace, and that mean no new pod.

A pod's hash tells whether a running one is outdated. What stands here is left out of it, so that another default, or
the placement that a helper takes over from its members, reaches each pod at its next start and restarts none.
"""

from collections.abc import Callable, Collection
from copy import deepcopy
from typing import Any

Manifest = dict[str, Any]

RESTRICTED_CONTAINER: Manifest = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""What the `restricted` Pod Security Standard asks of a container beyond its pod's securityContext."""


def restricted(manifest: Manifest, containers: Collection[str]) -> Manifest:
    """The manifest whose containers of these names satisfy `restricted`, where they say nothing else themselves."""

    def fill(spec: Manifest) -> None:
        for container in _containers(spec):
            if container.get("name") in containers:
                container["securityContext"] = {**RESTRICTED_CONTAINER, **(container.get("securityContext") or {})}

    return filled(manifest, fill)


def filled(manifest: Manifest, fill: Callable[[Manifest], None]) -> Manifest:
    """A copy of a pod, a Sandbox or a LeaderWorkerSet with `fill` done to each PodSpec in it."""
    copy = deepcopy(manifest)
    for spec in _pod_specs(copy):
        fill(spec)
    return copy


def _pod_specs(manifest: Manifest) -> list[Manifest]:
    spec = manifest["spec"]
    if "podTemplate" in spec:
        return [spec["podTemplate"]["spec"]]
    if "leaderWorkerTemplate" in spec:
        templates = spec["leaderWorkerTemplate"]
        return [templates[key]["spec"] for key in ("leaderTemplate", "workerTemplate") if key in templates]
    return [spec]


def _containers(spec: Manifest) -> list[Manifest]:
    return [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
