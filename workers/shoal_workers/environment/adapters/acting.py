"""How text becomes an action, and how a malformed one counts: settings that the adapters share."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from shoal_workers.environment.actions import NamedActions, Pick
from shoal_workers.environment.adapter import Observation, Step
from shoal_workers.environment.adapters.settings import CONFIG_PATH, Settings
from shoal_workers.service.config import ConfigurationError


class InvalidActionPolicy(Settings):
    """How a malformed action counts, where the environment's owner wants to say so."""

    reward: float | None = None
    terminated: bool = False
    text: str | None = Field(None, description="Shown instead of repeating the last observation.")

    def apply(self, reason: str, last: Observation) -> Step:
        """The effect of a malformed action; the environment itself has not moved."""
        text = last.text if self.text is None else self.text
        info = {**last.info, "invalid_action_counted": reason}
        return Step(Observation(text, last.data, info), self.reward, self.terminated)


class ActionSettings(Settings):
    """`actions` names them; `actionPattern` and `actionPick` say how a name is found in what the model wrote."""

    actions: dict[str, Any] = Field(default_factory=dict)
    action_pattern: str | None = None
    action_pick: Pick = "last"
    invalid_action: InvalidActionPolicy | None = None

    def named(self, fallback: dict[str, Any] | None = None) -> NamedActions | None:
        """The parser of named actions, None without names; raises ConfigurationError for a wrong pattern."""
        names = self.actions or fallback
        if not names:
            return None
        try:
            return NamedActions(names, self.action_pattern, self.action_pick)
        except ValueError as error:
            raise ConfigurationError(f"{CONFIG_PATH}.actionPattern", str(error)) from None
        except Exception as error:  # re.error, which is no ValueError
            raise ConfigurationError(f"{CONFIG_PATH}.actionPattern", f"not a regular expression: {error}") from None
