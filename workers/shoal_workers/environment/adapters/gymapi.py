"""The forms that reset and step have had in Gym and Gymnasium, as Gymnasium's present one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from shoal_workers.environment.generators import seed_globals


def check_form(environment: Any, made_by: str) -> None:
    """Raises TypeError naming what an environment needs and this object lacks."""
    missing = [name for name in ("reset", "step") if not callable(getattr(environment, name, None))]
    missing += [name for name in ("action_space",) if not hasattr(environment, name)]
    if missing:
        raise TypeError(f"{made_by} gave a {type(environment).__name__}, which has no {', '.join(missing)}")


def reset(environment: Any, seed: int | None, options: Any) -> tuple[Any, Mapping[str, Any]]:
    """Reset with what the environment's `reset` takes; observation and info.

    An environment without a seed argument is seeded by its old method `seed`, if it has one. Python's and numpy's own
    generators are seeded, too: many an environment draws from them.
    """
    if seed is not None:
        seed_globals(seed)
    given = {"seed": seed, "options": options}
    accepted = _accepted(environment.reset, given)
    if seed is not None and "seed" not in accepted and callable(old := getattr(environment, "seed", None)):
        old(seed)
    result = environment.reset(**accepted)
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping):
        return result
    return result, {}


def step(environment: Any, action: Any) -> tuple[Any, float | None, bool, bool, Mapping[str, Any]]:
    """Step; observation, reward, terminated, truncated, info. Raises TypeError for a result of another form."""
    result = environment.step(action)
    size = len(result) if isinstance(result, tuple | list) else 0
    if size == 5:
        observation, reward, terminated, truncated, info = result
    elif size == 4:
        observation, reward, done, info = result
        truncated = bool(info.get("TimeLimit.truncated", False))
        terminated = bool(done) and not truncated
    else:
        shown = f"{size} values" if size else f"a {type(result).__name__}"
        raise TypeError(f"step gave {shown}, not observation, reward, terminated, truncated, info")
    return observation, reward, bool(terminated), bool(truncated), info if isinstance(info, Mapping) else {}


def _accepted(call: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return dict(given)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(given)
    names = {parameter.name for parameter in parameters}
    return {name: value for name, value in given.items() if name in names}
