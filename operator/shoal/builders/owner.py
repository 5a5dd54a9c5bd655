"""Who an object belongs to."""

from dataclasses import dataclass
from typing import Any

from shoal.api.v1alpha1.common import API_VERSION

_WORDS = {"EnvironmentPool": "pool", "RolloutFleet": "fleet", "RLJob": "job"}
"""In the names of Secrets: a pool, a fleet and a job may share one name, or have that of another's role in it."""


@dataclass(frozen=True)
class Owner:
    """The custom resource that children are built for.

    Args:
        kind: EnvironmentPool, RolloutFleet or RLJob.
        name: its name.
        namespace: its namespace; children live in the same one.
        uid: identity; a later object of the same name is another owner.
        label: the label key that carries the owner's name on every child.
    """

    kind: str
    name: str
    namespace: str
    uid: str
    label: str

    def reference(self) -> dict[str, Any]:
        """The controller reference that garbage collection follows."""
        return {
            "apiVersion": API_VERSION,
            "kind": self.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }

    @property
    def secret(self) -> str:
        """Name of the Secret with the bearer token of this resource's services."""
        return f"{self.name}-{_WORDS[self.kind]}-token"

    def secret_for(self, role: str) -> str:
        """Name of the Secret with the token of a role's pods, which opens what they call and nothing else."""
        return f"{self.name}-{_WORDS[self.kind]}-{role}-token"

    def service(self, role: str) -> str:
        """Name of the Service (and of the single pod) of a role."""
        return f"{self.name}-{role}"

    def url(self, role: str, port: int) -> str:
        """URL of the role's Service inside the cluster."""
        return f"http://{self.service(role)}.{self.namespace}.svc:{port}"
