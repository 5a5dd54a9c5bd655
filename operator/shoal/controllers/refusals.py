"""Slows down what the API server refuses: the pause between tries doubles, and a single write tries first.

A quota, an admission policy or a name that is taken refuses the next write as it has refused the last one. So the
writes of one cause (a role of one resource, or one child) begin a few at a time, go faster while they succeed, stop at
the first refusal and wait.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from shoal.engine.clock import Clock
from shoal.kube.errors import ApiError
from shoal.planner.observed import Refused

T = TypeVar("T")

FIRST_WINDOW = 4
"""Writes of one cause in flight at first: a quota that is used up then refuses a handful, not hundreds."""
PAUSE_SECONDS, LONGEST_PAUSE = 1.0, 30.0
"""A person who has removed the cause should see the effect within half a minute."""


@dataclass
class Pace:
    """How fast the writes of one cause may go now. `until` is of the monotonic clock."""

    window: int = FIRST_WINDOW
    failures: int = 0
    until: float = 0.0
    refused: Refused | None = None
    error: ApiError | None = None


class Refusals:
    """What was refused to each resource, by cause, and when it may be tried again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._paces: dict[str, dict[str, Pace]] = {}

    def pace(self, uid: str, key: str) -> Pace:
        """Return the pace of one cause."""
        return self._paces.setdefault(uid, {}).setdefault(key, Pace())

    def waits(self, uid: str, key: str) -> bool:
        """Whether the pause after a refusal is not over yet."""
        known = self._paces.get(uid, {}).get(key)
        return known is not None and known.refused is not None and known.until > self._clock.now()

    def refuse(self, uid: str, key: str, refused: Refused, error: ApiError) -> None:
        """Note a refusal; of several at once only the first one lengthens the pause."""
        pace = self.pace(uid, key)
        now = self._clock.now()
        if pace.until <= now:
            pace.failures += 1
            pace.until = now + min(LONGEST_PAUSE, PAUSE_SECONDS * 2.0 ** min(pace.failures - 1, 30))
        pace.window, pace.refused, pace.error = 1, refused, error

    def accept(self, uid: str, key: str) -> None:
        """Note a success: what was refused before is over."""
        pace = self._paces.get(uid, {}).get(key)
        if pace is not None and pace.refused is not None:
            self._paces[uid][key] = Pace(pace.window)

    def of(self, uid: str) -> dict[str, Refused]:
        """Everything that is refused to a resource now."""
        return {key: pace.refused for key, pace in self._paces.get(uid, {}).items() if pace.refused is not None}

    def error(self, uid: str) -> ApiError | None:
        """The first refusal of a resource as the API server put it."""
        return next((pace.error for pace in self._paces.get(uid, {}).values() if pace.error is not None), None)

    def retry_in(self, uid: str) -> float | None:
        """Seconds until the first pause of a resource is over; None where nothing is refused."""
        now = self._clock.now()
        times = [pace.until - now for pace in self._paces.get(uid, {}).values() if pace.refused is not None]
        return max(0.05, min(times)) if times else None

    def keep(self, uid: str, wanted: Callable[[str], bool]) -> None:
        """Forget the refusals of writes that nobody wants any more."""
        paces = self._paces.get(uid, {})
        for key in [key for key, pace in paces.items() if pace.refused is not None and not wanted(key)]:
            del paces[key]

    def forget(self, uid: str) -> None:
        """Drop everything of a resource that is gone."""
        self._paces.pop(uid, None)


async def ramp(items: Iterable[T], write: Callable[[T], Awaitable[bool]], pace: Pace, most: int) -> None:
    """Write the items, `pace.window` at once at first and one more with each success, up to `most`.

    `write` returns whether it was accepted; after the first that was not no other begins. Raises what `write` raises,
    once those in flight have ended.
    """
    left = iter(items)
    flying: set[asyncio.Task[bool]] = set()
    failed: list[BaseException] = []
    going = True
    while True:
        while going and len(flying) < pace.window and (item := next(left, None)) is not None:
            flying.add(asyncio.ensure_future(write(item)))
        if not flying:
            break
        done, flying = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = task.exception()
            if error is not None:
                failed.append(error)
            if error is not None or not task.result():
                going = False
            elif going:
                pace.window = min(most, pace.window + 1)
    if failed:
        raise failed[0]
