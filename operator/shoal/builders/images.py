"""The default image of each role."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.api.labels import Role

_DEFAULTS = {
    Role.ENVIRONMENT: "shoal/environment",
    Role.BROKER: "shoal/services",
    Role.GATEWAY: "shoal/services",
    Role.DATA: "shoal/services",
    Role.AGENT: "shoal/agent",
    Role.ENGINE: "shoal/rollout",
    Role.TRAINER: "shoal/trainer",
}


@dataclass(frozen=True)
class Images:
    """Which image runs which role.

    Args:
        tag: tag of the default images.
        overrides: role -> whole image name, from the operator's configuration.
        pull_policy: Kubernetes' word for these images; "" for its default. A user's own image keeps its own.
        pull_secrets: names of Secrets to pull with, in the namespace of each pod.
    """

    tag: str = "latest"
    overrides: Mapping[str, str] = field(default_factory=dict)
    pull_policy: str = ""
    pull_secrets: tuple[str, ...] = ()

    def of(self, role: str) -> str:
        """The image of a role."""
        return self.overrides.get(role) or f"{_DEFAULTS[role]}:{self.tag}"

    def pulling(self, image: str) -> dict[str, Any]:
        """The fields of a container that say how its image is pulled; none for a user's own."""
        own = any(image == self.of(role) for role in _DEFAULTS)
        return {"imagePullPolicy": self.pull_policy} if own and self.pull_policy else {}

    def secrets(self) -> dict[str, Any]:
        """The field of a pod that says what is shown to registries."""
        return {"imagePullSecrets": [{"name": name} for name in self.pull_secrets]} if self.pull_secrets else {}
