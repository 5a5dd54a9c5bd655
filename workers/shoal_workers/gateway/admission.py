"""Who may call an engine now, and who waits: bounded, first come first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from shoal_workers.gateway.routing import Candidate, Router
from shoal_workers.service import ProblemError


@dataclass(slots=True)
class Place:
    """A place at an engine: its name, the requests in flight there, the version it serves."""

    name: str
    version: int
    in_flight: int = 0


@dataclass(slots=True)
class _Waiter:
    session: str
    prompt: Sequence[int]
    min_version: int
    avoid: Collection[str]
    future: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Admission:
    """Gives out places at engines: at most `per_engine` requests each, at most `queue_limit` waiting.

    `places` is what may be called now; whoever changes it calls `wake`.
    """

    def __init__(self, router: Router, per_engine: int, queue_limit: int) -> None:
        self._router = router
        self._per_engine = per_engine
        self._queue_limit = queue_limit
        self._queue: deque[_Waiter] = deque()
        self._places: dict[str, Place] = {}
        self._in_flight: dict[str, int] = {}
        self.refused = 0

    @property
    def queued(self) -> int:
        """Requests that wait for a place."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Requests that have a place."""
        return sum(self._in_flight.values())

    def in_flight(self, name: str) -> int:
        """Requests at one engine."""
        return self._in_flight.get(name, 0)

    def set_places(self, serving: dict[str, int]) -> None:
        """Engines that may be called from now on, and the version of each."""
        self._places = {
            name: Place(name, version, self._in_flight.get(name, 0)) for name, version in sorted(serving.items())
        }
        self._wake()

    async def acquire(
        self, session: str, prompt: Sequence[int], min_version: int = 0, avoid: Collection[str] = ()
    ) -> str:
        """A place at an engine, waiting for one; raises ProblemError `queue-full` (429).

        `avoid` are engines that just failed this request: used only where there is no other.
        """
        waiter = _Waiter(session, prompt, min_version, avoid) if self._queue else None
        if waiter is None:
            name = self._try(session, prompt, min_version, avoid)
            if name is not None:
                return name
            waiter = _Waiter(session, prompt, min_version, avoid)
        if len(self._queue) >= self._queue_limit:
            self.refused += 1
            raise ProblemError("queue-full", f"{len(self._queue)} requests wait for an engine already", status=429)
        self._queue.append(waiter)
        if len(self._queue) > 1:
            self._wake()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled():
                self.release(waiter.future.result())
            else:
                # A wake-up between the cancellation and here has dropped it already.
                with suppress(ValueError):
                    self._queue.remove(waiter)
            raise

    def release(self, name: str) -> None:
        """Give a place back."""
        left = self._in_flight[name] - 1
        if left:
            self._in_flight[name] = left
        else:
            del self._in_flight[name]
        place = self._places.get(name)
        if place is not None:
            place.in_flight = left
        if self._queue:
            self._wake()

    def drop_all(self, error: Callable[[], Exception]) -> None:
        """Answer everyone who waits with an error."""
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.future.done():
                waiter.future.set_exception(error())

    def _try(self, session: str, prompt: Sequence[int], min_version: int, avoid: Collection[str]) -> str | None:
        free = [
            place
            for place in self._places.values()
            if place.in_flight < self._per_engine and place.version >= min_version
        ]
        preferred = [place for place in free if place.name not in avoid] or free
        if not preferred:
            return None
        if len(preferred) == 1 and len(self._places) == 1:
            place = preferred[0]
        else:
            candidates = [Candidate(place.name, place.in_flight) for place in preferred]
            place = self._places[self._router.choose(candidates, session, prompt)]
        place.in_flight += 1
        self._in_flight[place.name] = place.in_flight
        return place.name

    def _wake(self) -> None:
        """Serve the queue in order. One that waits for newer weights does not hold up those behind it."""
        held: deque[_Waiter] = deque()
        while self._queue:
            waiter = self._queue.popleft()
            if waiter.future.done():
                continue
            name = self._try(waiter.session, waiter.prompt, waiter.min_version, waiter.avoid)
            if name is not None:
                waiter.future.set_result(name)
            else:
                held.append(waiter)
                if not waiter.min_version:
                    break
        held.extend(self._queue)
        self._queue = held
