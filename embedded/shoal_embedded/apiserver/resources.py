"""Which resources are served: the built-in ones, and those that CustomResourceDefinitions add."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

CUSTOM_VERBS = ("delete", "deletecollection", "get", "list", "patch", "create", "update", "watch")
VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True)
class Resource:
    """One resource in one version.

    Args:
        schema: structural schema of a custom resource, None for built-in ones, which are taken as they come.
        columns: printer columns of a custom resource.
        subresources: "status" and "scale" (with its paths).
    """

    group: str
    version: str
    plural: str
    kind: str
    singular: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    schema: Json | None = field(default=None, compare=False)
    columns: tuple[Json, ...] = field(default=(), compare=False)
    subresources: Json = field(default_factory=dict, compare=False)

    @property
    def api_version(self) -> str:
        """Value of an object's `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def key(self) -> str:
        """What objects are stored under; versions share it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def custom(self) -> bool:
        """Whether a CustomResourceDefinition brought it."""
        return self.schema is not None


def _builtin(group: str, version: str, plural: str, kind: str, *short: str, namespaced: bool = True) -> Resource:
    statuses = {"pods", "services", "nodes", "namespaces", "persistentvolumeclaims", "persistentvolumes"}
    categories = ("all",) if plural in ("pods", "services") else ()
    return Resource(
        group,
        version,
        plural,
        kind,
        kind.lower(),
        namespaced,
        short,
        categories,
        subresources={"status": {}} if plural in statuses or plural == CRDS else {},
    )


CRDS = "customresourcedefinitions"
BUILTIN = (
    _builtin("", "v1", "namespaces", "Namespace", "ns", namespaced=False),
    _builtin("", "v1", "pods", "Pod", "po"),
    _builtin("", "v1", "services", "Service", "svc"),
    _builtin("", "v1", "endpoints", "Endpoints", "ep"),
    _builtin("", "v1", "secrets", "Secret"),
    _builtin("", "v1", "configmaps", "ConfigMap", "cm"),
    _builtin("", "v1", "events", "Event", "ev"),
    _builtin("", "v1", "serviceaccounts", "ServiceAccount", "sa"),
    _builtin("", "v1", "nodes", "Node", "no", namespaced=False),
    _builtin("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", "pvc"),
    _builtin("", "v1", "persistentvolumes", "PersistentVolume", "pv", namespaced=False),
    _builtin("coordination.k8s.io", "v1", "leases", "Lease"),
    _builtin("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
    _builtin("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", "netpol"),
    _builtin("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", "pdb"),
    _builtin("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", "pc", namespaced=False),
    _builtin("rbac.authorization.k8s.io", "v1", "roles", "Role"),
    _builtin("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
    _builtin("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False),
    _builtin("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    _builtin("apiextensions.k8s.io", "v1", CRDS, "CustomResourceDefinition", "crd", "crds", namespaced=False),
)


class Registry:
    """All resources, by where they are served."""

    def __init__(self) -> None:
        self._by_path = {(each.group, each.version, each.plural): each for each in BUILTIN}

    def __iter__(self) -> Iterator[Resource]:
        return iter(self._by_path.values())

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        """The resource served at this path."""
        return self._by_path.get((group, version, plural))

    def by_kind(self, api_version: str, kind: str) -> Resource | None:
        """The resource of objects of this kind."""
        for each in self:
            if each.api_version == api_version and each.kind == kind:
                return each
        return None

    def groups(self) -> dict[str, list[str]]:
        """Group -> its versions; the core group is not a group here."""
        found: dict[str, list[str]] = {}
        for each in self:
            if each.group and each.version not in found.setdefault(each.group, []):
                found[each.group].append(each.version)
        return found

    def in_version(self, group: str, version: str) -> list[Resource]:
        """The resources of one group in one version."""
        return [each for each in self if (each.group, each.version) == (group, version)]

    def define(self, definition: Json) -> None:
        """Serve what a CustomResourceDefinition defines, in place of what it defined before."""
        self.undefine(definition)
        for each in resources_of(definition):
            self._by_path[each.group, each.version, each.plural] = each

    def undefine(self, definition: Json) -> None:
        """Serve no longer what a CustomResourceDefinition defined."""
        spec = definition["spec"]
        for path in [path for path in self._by_path if (path[0], path[2]) == (spec["group"], spec["names"]["plural"])]:
            del self._by_path[path]


def resources_of(definition: Json) -> list[Resource]:
    """The resources of a CustomResourceDefinition, one per served version."""
    spec, names = definition["spec"], definition["spec"]["names"]
    return [
        Resource(
            group=spec["group"],
            version=version["name"],
            plural=names["plural"],
            kind=names["kind"],
            singular=names.get("singular") or names["kind"].lower(),
            namespaced=spec.get("scope", "Namespaced") == "Namespaced",
            short_names=tuple(names.get("shortNames", ())),
            categories=tuple(names.get("categories", ())),
            schema=(version.get("schema") or {}).get("openAPIV3Schema", {}),
            columns=tuple(version.get("additionalPrinterColumns", ())),
            subresources=version.get("subresources", {}),
        )
        for version in spec["versions"]
        if version.get("served", True)
    ]
