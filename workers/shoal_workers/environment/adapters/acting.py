"""How text becomes an action, and how a malformed one counts: what the adapters share."""

from __future__ import annotations

from typing import Any

from shoal.api.services.roles.environmentconfig import ActionSettings, InvalidActionPolicy
from shoal_workers.environment.actions import NamedActions
from shoal_workers.environment.adapter import Observation, Step
from shoal_workers.environment.adapters.settings import CONFIG_PATH
from shoal_workers.service.config import ConfigurationError


def counted(policy: InvalidActionPolicy, reason: str, last: Observation) -> Step:
    """The effect of a malformed action; the environment itself has not moved."""
    text = last.text if policy.text is None else policy.text
    info = {**last.info, "invalid_action_counted": reason}
    return Step(Observation(text, last.data, info), policy.reward, policy.terminated)


def named(settings: ActionSettings, fallback: dict[str, Any] | None = None) -> NamedActions | None:
    """The parser of named actions, None without names; raises ConfigurationError for a wrong pattern."""
    names = settings.actions or fallback
    if not names:
        return None
    try:
        return NamedActions(names, settings.action_pattern, settings.action_pick)
    except ValueError as error:
        raise ConfigurationError(f"{CONFIG_PATH}.actionPattern", str(error)) from None
    except Exception as error:  # re.error, which is no ValueError
        raise ConfigurationError(f"{CONFIG_PATH}.actionPattern", f"not a regular expression: {error}") from None
