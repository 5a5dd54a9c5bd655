"""Resource descriptors: what to put into the path of a request for a kind of object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

Json = dict[str, Any]
"""A Kubernetes object, or a part of one, as decoded from JSON."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of the API: `group` is empty for the core group; `plural` is the word in paths."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """Value of an object's `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the URL path of a collection (no name), an object or a subresource.

        Raises `ValueError` for a name without the namespace it needs, so that a request never hits another scope.
        """
        if name is not None and self.namespaced and not namespace:
            raise ValueError(f"{self.plural} {name!r}: a namespace is needed")
        if namespace and not self.namespaced:
            raise ValueError(f"{self.plural} are not namespaced, got namespace {namespace!r}")
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name is not None:
            parts.append(quote(name, safe=""))
        if subresource is not None:
            parts.append(subresource)
        return "/".join(parts)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


PODS = Resource("", "v1", "pods", "Pod")
SERVICES = Resource("", "v1", "services", "Service")
SECRETS = Resource("", "v1", "secrets", "Secret")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
PERSISTENT_VOLUME_CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
CORE_EVENTS = Resource("", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
PRIORITY_CLASSES = Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False)
NETWORK_POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
CUSTOM_RESOURCE_DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)

SHOAL_GROUP = "rl.shoal.dev"
SHOAL_VERSION = "v1alpha1"
ENVIRONMENT_POOLS = Resource(SHOAL_GROUP, SHOAL_VERSION, "environmentpools", "EnvironmentPool")
ROLLOUT_FLEETS = Resource(SHOAL_GROUP, SHOAL_VERSION, "rolloutfleets", "RolloutFleet")
RL_JOBS = Resource(SHOAL_GROUP, SHOAL_VERSION, "rljobs", "RLJob")
