"""A deduplicating work queue with delayed wake-ups and back-off per key, after client-go's.

- A key that is waiting is waiting once, however often it is added.
- A key is never handed to two workers; added while in work, it comes again after `done`.
- Keys are served first come, first served, so a busy key can't starve the others.
- A key may rest after `done`: it is not handed out before, however often it is added.
- Of several delayed wake-ups of one key the earliest counts: what comes later is scheduled anew by the work itself.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from shoal.engine.clock import Clock, SystemClock, Timer

K = TypeVar("K", bound=Hashable)

BACKOFF_BASE = 0.005
BACKOFF_CAP = 60.0
"""Longest wait after failures: a person who has removed the cause should see the effect within a minute."""


class QueueClosedError(Exception):
    """The queue was closed: there is no more work for this worker."""


class QueueState(Generic[K]):
    """The rules without waiting: every method takes `now` (seconds) where time matters."""

    def __init__(self, *, base: float = BACKOFF_BASE, cap: float = BACKOFF_CAP) -> None:
        self._base = base
        self._cap = cap
        self._ready: deque[K] = deque()
        self._dirty: set[K] = set()
        self._processing: set[K] = set()
        self._resting: dict[K, float] = {}
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._sequence = 0
        self._failures: dict[K, int] = {}

    @property
    def ready(self) -> int:
        """Keys that could be taken now."""
        return len(self._ready)

    @property
    def processing(self) -> frozenset[K]:
        """Keys that are in work."""
        return frozenset(self._processing)

    @property
    def delayed(self) -> int:
        """Keys with a wake-up in the future."""
        return len(self._due)

    def add(self, key: K) -> None:
        """Have `key` worked on as soon as possible."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._processing and key not in self._resting:
            self._ready.append(key)

    def add_at(self, key: K, when: float) -> None:
        """Have `key` added at time `when`, unless an earlier wake-up is set already."""
        if self._due.get(key, float("inf")) <= when:
            return
        self._due[key] = when
        self._sequence += 1
        # The sequence number breaks ties: keys need not be comparable. An outdated heap entry is skipped in `wake`.
        heapq.heappush(self._heap, (when, self._sequence, key))

    def wake(self, now: float) -> int:
        """Add every key whose time has come, and let rested ones go on; returns how many became ready."""
        woken = 0
        for key in [key for key, until in self._resting.items() if until <= now]:
            del self._resting[key]
            if key in self._dirty and key not in self._processing:
                self._ready.append(key)
                woken += 1
        while self._heap and self._heap[0][0] <= now:
            when, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == when:
                del self._due[key]
                self.add(key)
                woken += 1
        return woken

    def next_wake(self) -> float | None:
        """Return the time of the next wake-up."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        times = [self._heap[0][0]] if self._heap else []
        # Who rests without anything to do needs no wake-up.
        times += [until for key, until in self._resting.items() if key in self._dirty]
        return min(times, default=None)

    def take(self) -> K | None:
        """Take the key that has waited longest into work; None when there is none."""
        if not self._ready:
            return None
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._processing.add(key)
        return key

    def done(self, key: K, rest_until: float | None = None) -> None:
        """Say that the work on `key` has ended; it is ready again, if it was added meanwhile, once it has rested."""
        self._processing.discard(key)
        if rest_until is not None:
            self._resting[key] = rest_until
        elif key in self._dirty:
            self._ready.append(key)

    def fail(self, key: K) -> float:
        """Count a failure of `key` and return the seconds to wait before the next try."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        return float(min(self._cap, self._base * 2.0 ** min(count, 60)))

    def forget(self, key: K) -> None:
        """Reset the failures of `key`."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """Failures of `key` in a row."""
        return self._failures.get(key, 0)

    def clear(self) -> None:
        """Drop all work that has not begun."""
        self._ready.clear()
        self._dirty.clear()
        self._resting.clear()
        self._due.clear()
        self._heap.clear()


class WorkQueue(Generic[K]):
    """The queue that workers wait on. All methods are called from one event loop."""

    def __init__(self, *, clock: Clock | None = None, base: float = BACKOFF_BASE, cap: float = BACKOFF_CAP) -> None:
        self._clock = clock or SystemClock()
        self._state: QueueState[K] = QueueState(base=base, cap=cap)
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()
        self._timer: Timer | None = None
        self._timer_at = float("inf")
        self._closed = False

    def __len__(self) -> int:
        """Keys ready to be taken."""
        return self._state.ready

    @property
    def delayed(self) -> int:
        """Keys with a wake-up in the future."""
        return self._state.delayed

    @property
    def processing(self) -> frozenset[K]:
        """Keys in work."""
        return self._state.processing

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def add(self, key: K) -> None:
        """Have `key` worked on as soon as possible. Ignored after `close`."""
        if not self._closed:
            self._state.add(key)
            self._wake_workers()
            self._set_timer()

    def add_after(self, key: K, seconds: float) -> None:
        """Have `key` worked on in `seconds` (at once for 0 and less), or earlier if a wake-up before that is set."""
        if self._closed:
            return
        if seconds <= 0:
            self.add(key)
            return
        self._state.add_at(key, self._clock.now() + seconds)
        self._set_timer()

    def add_rate_limited(self, key: K) -> float:
        """Have `key` worked on after its back-off; counts a failure and returns the seconds."""
        seconds = self._state.fail(key)
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: K) -> None:
        """Say that `key` succeeded: its back-off starts over."""
        self._state.forget(key)

    def failures(self, key: K) -> int:
        """Failures of `key` in a row."""
        return self._state.failures(key)

    async def get(self) -> K:
        """Wait for a key and take it into work; call `done` afterwards. Raises `QueueClosedError`."""
        while True:
            if self._closed:
                raise QueueClosedError
            self._state.wake(self._clock.now())
            key = self._state.take()
            if key is not None:
                self._idle.clear()
                # One wake-up may have made several keys ready while only one worker was told.
                self._wake_workers()
                return key
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                else:
                    # This worker was told of a key and will not take it: tell another one.
                    self._wake_workers()
                raise

    def done(self, key: K, rest: float = 0.0) -> None:
        """Say that the work on `key` has ended, and for how many seconds changes are gathered before it goes on."""
        self._state.done(key, self._clock.now() + rest if rest > 0 and not self._closed else None)
        if not self._state.processing:
            self._idle.set()
        self._wake_workers()
        self._set_timer()

    def close(self) -> None:
        """Drop all work that has not begun and send the waiting workers home. Work that has begun goes on."""
        self._closed = True
        self._state.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiters:
            self._wake(self._waiters.popleft())

    async def join(self) -> None:
        """Wait until no key is in work."""
        await self._idle.wait()

    def _wake_workers(self) -> None:
        if self._state.ready and self._waiters:
            self._wake(self._waiters.popleft())

    @staticmethod
    def _wake(waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_result(None)

    def _set_timer(self) -> None:
        when = self._state.next_wake()
        if when is None or (self._timer is not None and self._timer_at <= when):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._clock.call_later(max(0.0, when - self._clock.now()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._state.wake(self._clock.now()):
            self._wake_workers()
        self._set_timer()
