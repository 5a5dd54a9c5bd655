"""The default image of each role."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    """

    tag: str = "latest"
    overrides: Mapping[str, str] = field(default_factory=dict)

    def of(self, role: str) -> str:
        """The image of a role."""
        return self.overrides.get(role) or f"{_DEFAULTS[role]}:{self.tag}"
