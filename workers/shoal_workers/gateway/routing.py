"""Which engine a request goes to: named policies over the same facts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

# Above this spread of requests between engines, locality gives way to balance (AIBrix's prefix-aware router).
IMBALANCE = 8
# How many standard deviations above the mean an engine may be loaded and still get a request for its cache (AIBrix).
DEVIATIONS = 1.0
# Sessions and prefixes remembered; a forgotten one only costs a recomputed prefix.
REMEMBERED = 100_000
# Tokens per remembered piece of a prompt: a few of vLLM's cache blocks.
PIECE = 64
PIECES = 64


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that may take a request now, and how many it has of this gateway."""

    name: str
    in_flight: int


class Router(ABC):
    """Chooses among candidates; there is always at least one."""

    name: ClassVar[str]
    registry: ClassVar[dict[str, type[Router]]] = {}

    def __init_subclass__(cls) -> None:
        Router.registry[cls.name] = cls

    @abstractmethod
    def choose(self, candidates: Sequence[Candidate], session: str, prompt: Sequence[int]) -> str:
        """The engine's name. `session` is "" for a call of its own; `prompt` is its token ids."""


def make_router(name: str) -> Router:
    """The router of that name; raises KeyError naming those there are."""
    if name not in Router.registry:
        raise KeyError(f"no routing policy {name!r}; there are {', '.join(sorted(Router.registry))}")
    return Router.registry[name]()


class LeastLoaded(Router):
    """The engine with the fewest requests; ties go round, so that an idle fleet is used evenly."""

    name = "LeastLoaded"

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, candidates: Sequence[Candidate], session: str, prompt: Sequence[int]) -> str:
        """The least loaded."""
        least = min(candidate.in_flight for candidate in candidates)
        free = [candidate.name for candidate in candidates if candidate.in_flight == least]
        self._turn += 1
        return free[self._turn % len(free)]


class RoundRobin(Router):
    """Every engine in turn, whatever it is doing."""

    name = "RoundRobin"

    def __init__(self) -> None:
        self._last = ""

    def choose(self, candidates: Sequence[Candidate], session: str, prompt: Sequence[int]) -> str:
        """The next by name."""
        names = sorted(candidate.name for candidate in candidates)
        self._last = next((name for name in names if name > self._last), names[0])
        return self._last


class PrefixAffinity(Router):
    """The engine that holds the prompt's prefix in its cache, unless it is too busy.

    AIBrix's rule: if max - min running requests > 8, the least loaded; else the best prefix match among engines whose
    running <= mean + k * std; else the least loaded. The match is the session's last engine, and for calls without a
    session the engine that had the longest common prompt prefix in pieces of `PIECE` tokens.
    """

    name = "PrefixAffinity"

    def __init__(self) -> None:
        self._fallback = LeastLoaded()
        self._sessions: OrderedDict[str, str] = OrderedDict()
        self._pieces: OrderedDict[int, str] = OrderedDict()

    def choose(self, candidates: Sequence[Candidate], session: str, prompt: Sequence[int]) -> str:
        """The affine engine within the load bound, else the least loaded."""
        pieces = [] if session else _piece_hashes(prompt)
        wanted = self._sessions.get(session) if session else self._longest_match(pieces)
        if wanted is not None and _may_take(candidates, wanted):
            name = wanted
        else:
            name = self._fallback.choose(candidates, "", ())
        if session:
            _remember(self._sessions, session, name)
        for piece in pieces:
            _remember(self._pieces, piece, name)
        return name

    def _longest_match(self, pieces: Sequence[int]) -> str | None:
        found = (self._pieces.get(piece) for piece in reversed(pieces))
        return next((name for name in found if name is not None), None)


def _may_take(candidates: Sequence[Candidate], wanted: str) -> bool:
    loads = [candidate.in_flight for candidate in candidates]
    if max(loads) - min(loads) > IMBALANCE:
        return False
    mean = sum(loads) / len(loads)
    deviation = math.sqrt(sum((load - mean) ** 2 for load in loads) / len(loads))
    return any(c.name == wanted and c.in_flight <= mean + DEVIATIONS * deviation for c in candidates)


def _piece_hashes(prompt: Sequence[int]) -> list[int]:
    """A hash per whole piece, each of the prompt up to that piece's end."""
    hashes: list[int] = []
    chained = 0
    for start in range(0, min(len(prompt) // PIECE, PIECES) * PIECE, PIECE):
        chained = hash((chained, *prompt[start : start + PIECE]))
        hashes.append(chained)
    return hashes


def _remember(memory: OrderedDict[str, str] | OrderedDict[int, str], key: str | int, name: str) -> None:
    memory[key] = name  # type: ignore[index]
    memory.move_to_end(key)  # type: ignore[arg-type]
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)
