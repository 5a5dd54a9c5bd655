"""Who is served next: requests in order of arrival, each by a slot of its variant.

Pure: no clock, no I/O. A request keeps its place while nobody polls for it, but only requests with somebody waiting are
matched, so that no slot is leased to nobody.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from shoal.api.services.leases import LeaseRequest

ANY = None


@dataclass(slots=True)
class Waiting:
    """One request in the queue. `deadline`: when it is dropped if nobody polls for it again (Unix seconds)."""

    request: LeaseRequest
    lease_id: str
    sequence: int
    since: float
    deadline: float
    polls: int = 0
    granting: bool = False

    @property
    def key(self) -> str:
        """The request's key."""
        return self.request.key

    @property
    def present(self) -> bool:
        """Whether somebody waits for it now."""
        return self.polls > 0


@dataclass(slots=True)
class Queue:
    """The waiting requests."""

    hold: float
    _entries: dict[str, Waiting] = field(default_factory=dict)
    _heaps: dict[str | None, list[tuple[int, str]]] = field(default_factory=dict)
    _sequence: itertools.count[int] = field(default_factory=itertools.count)
    _counts: Counter[str | None] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Waiting | None:
        """The waiting request with this key."""
        return self._entries.get(key)

    def add(self, request: LeaseRequest, lease_id: str, now: float) -> Waiting:
        """Put a request at the end."""
        entry = Waiting(request, lease_id, next(self._sequence), since=now, deadline=now + self.hold)
        self._entries[request.key] = entry
        self._counts[request.variant] += 1
        return entry

    def arrive(self, entry: Waiting) -> None:
        """Somebody waits for this request: it may be matched."""
        entry.polls += 1
        if entry.polls == 1:
            self._push(entry)

    def leave(self, entry: Waiting, now: float) -> None:
        """One waits no more; when nobody does, the place is kept for `hold` seconds."""
        entry.polls -= 1
        entry.deadline = now + self.hold

    def remove(self, entry: Waiting) -> None:
        """The request is served or given up."""
        if self._entries.pop(entry.key, None) is not None:
            self._counts[entry.request.variant] -= 1

    def take(self, entry: Waiting) -> None:
        """A grant for this request is being tried."""
        entry.granting = True

    def put_back(self, entry: Waiting) -> None:
        """The grant failed: back to the old place."""
        entry.granting = False
        if entry.present:
            self._push(entry)

    def sweep(self, now: float) -> list[Waiting]:
        """Drop the requests that nobody came back for."""
        gone = [
            entry
            for entry in self._entries.values()
            if not entry.present and not entry.granting and entry.deadline <= now
        ]
        for entry in gone:
            self.remove(entry)
        return gone

    def position(self, entry: Waiting) -> int:
        """How many requests are before this one."""
        return sum(other.sequence < entry.sequence for other in self._entries.values())

    def waiting(self, variant: str | None) -> int:
        """How many requests ask for exactly this variant (None: for any)."""
        return self._counts[variant]

    def variants(self) -> list[str]:
        """The variants that somebody asks for by name."""
        return [variant for variant, count in self._counts.items() if variant is not None and count > 0]

    def first_for(self, variant: str) -> Waiting | None:
        """The longest waiting request that a slot of the variant would serve."""
        heads = [entry for entry in (self._head(variant), self._head(ANY)) if entry is not None]
        return min(heads, key=lambda entry: entry.sequence, default=None)

    def _head(self, variant: str | None) -> Waiting | None:
        heap = self._heaps.get(variant)
        while heap:
            sequence, key = heap[0]
            entry = self._entries.get(key)
            if entry is not None and entry.sequence == sequence and entry.present and not entry.granting:
                return entry
            heapq.heappop(heap)
        return None

    def _push(self, entry: Waiting) -> None:
        heapq.heappush(self._heaps.setdefault(entry.request.variant, []), (entry.sequence, entry.key))


def match(queue: Queue, variants: list[str], member_of: Callable[[str], str | None]) -> tuple[Waiting, str] | None:
    """The next request and the member to ask, None when nothing fits. `variants` have free slots.

    Among the variants the longest waiting request goes first. `member_of` gives a member with a free slot.
    """
    best: tuple[Waiting, str] | None = None
    for variant in variants:
        entry = queue.first_for(variant)
        if entry is not None and (best is None or entry.sequence < best[0].sequence):
            member = member_of(variant)
            best = (entry, member) if member is not None else best
    return best
