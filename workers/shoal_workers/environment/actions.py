"""From what a model wrote to an action."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from shoal_workers.environment.adapter import InvalidActionError

Pick = Literal["last", "first", "only", "whole"]

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_SHOWN = 80


class NamedActions:
    """Actions that have names, such as `{left: 0, right: 2}`.

    `pattern` (with one group, or none) first cuts out the part of the text that counts, its last match winning;
    then `pick` says which name in it is meant: the last or first one, the only one, or the whole text.
    Letter case is ignored. Names are found as whole words.
    """

    def __init__(self, actions: Mapping[str, Any], pattern: str | None = None, pick: Pick = "last") -> None:
        if not actions:
            raise ValueError("there must be at least one action")
        self._values = {name.casefold(): value for name, value in actions.items()}
        self._pattern = re.compile(pattern, re.DOTALL | re.IGNORECASE) if pattern else None
        self._pick = pick
        # Longest first, so that "turn left" is not taken for "turn".
        names = sorted(self._values, key=len, reverse=True)
        self._names = re.compile("|".join(_whole_word(name) for name in names), re.IGNORECASE)

    @property
    def names(self) -> list[str]:
        """The names, in the order they were given."""
        return list(self._values)

    def parse(self, text: str) -> Any:
        """The action that the text names; raises InvalidActionError."""
        part = self._relevant(text)
        whole = part.strip().casefold()
        if whole in self._values:
            return self._values[whole]
        found = [] if self._pick == "whole" else [match.casefold() for match in self._names.findall(part)]
        if not found:
            raise InvalidActionError(f"{_shown(text)} names no action; there are: {', '.join(self._values)}")
        if self._pick == "only" and len(set(found)) > 1:
            raise InvalidActionError(f"{_shown(text)} names several actions: {', '.join(sorted(set(found)))}")
        return self._values[found[0] if self._pick == "first" else found[-1]]

    def _relevant(self, text: str) -> str:
        if self._pattern is None:
            return text
        matches = list(self._pattern.finditer(text))
        if not matches:
            raise InvalidActionError(f"{_shown(text)} does not match {self._pattern.pattern!r}")
        match = matches[-1]
        return str(match.group(1) if self._pattern.groups else match.group(0))


def numbers(text: str, count: int) -> list[float]:
    """The `count` numbers in a text; raises InvalidActionError when there are more or fewer."""
    found = [float(number) for number in _NUMBER.findall(text)]
    if len(found) != count:
        raise InvalidActionError(f"{_shown(text)} has {len(found)} numbers, the action needs {count}")
    return found


def text_of(action: Mapping[str, Any]) -> str:
    """The text of an action in the form `{"text": ...}` (or OpenEnv's `message`); raises InvalidActionError."""
    for name in ("text", "message"):
        if isinstance(value := action.get(name), str):
            return value
    raise InvalidActionError(f"an action needs the field `text`; it has: {', '.join(map(str, action)) or 'none'}")


def _whole_word(name: str) -> str:
    before = r"(?<!\w)" if name[:1].isalnum() else ""
    after = r"(?!\w)" if name[-1:].isalnum() else ""
    return before + re.escape(name) + after


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
