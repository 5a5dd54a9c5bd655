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

    def pulled(self, pod: dict[str, Any]) -> dict[str, Any]:
        """A pod's spec with how its images are pulled; those of a user's own are left to the user.

        A pod without an image of these keeps what its account has to pull with: Kubernetes gives that to pods alone
        that name nothing.
        """
        own = {self.of(role) for role in _DEFAULTS}
        containers = [self._pulled(each) if each.get("image") in own else each for each in pod["containers"]]
        spec = {**pod, "containers": containers}
        if self.pull_secrets and any(each.get("image") in own for each in containers):
            named = [*({"name": name} for name in self.pull_secrets), *pod.get("imagePullSecrets", ())]
            spec["imagePullSecrets"] = [each for index, each in enumerate(named) if each not in named[:index]]
        return spec

    def _pulled(self, container: dict[str, Any]) -> dict[str, Any]:
        return {"imagePullPolicy": self.pull_policy, **container} if self.pull_policy else container
