"""What this process has asked for and its cache does not show yet.

A cache lags behind its own writer. Whoever counts children in it and creates what is missing creates too many; a pool
of 500 once got 5,000 pods that way. So each creation and deletion is recorded *before* the call and counted until the
cache shows it:

    expectations.expect_creation(owner, key, clock.now())
    try:
        await client.create(...)
    except ApiError as error:
        expectations.creation_failed(key, error)
        raise

The cache settles them through `observe`, which is given every change of the reflector. Creations are known by their
name, which must be fresh (never used before), deletions by UID. An expectation nobody settles expires: a write may
have been lost, and its effect may have come and gone while nobody watched.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from shoal.engine.keys import ObjectKey
from shoal.engine.store import Change, ChangeType
from shoal.kube.errors import ApiError, UnavailableError

O = TypeVar("O", bound=Hashable)  # noqa: E741  # the owner whose children are counted
log = logging.getLogger(__name__)

EXPIRY = 60.0
"""Seconds. Shorter, and a slow cache is over-created from again; longer, and a lost write blocks its owner as long.
Allowed are 30 s to 5 min."""
SHORTEST_EXPIRY, LONGEST_EXPIRY = 30.0, 300.0


@dataclass(frozen=True, slots=True)
class Pending:
    """The open expectations of one owner: creations by key, deletions by UID."""

    creations: Mapping[ObjectKey, str] = field(default_factory=dict)
    """Key of each object that was asked for, with the group (a role, say) it was recorded under."""
    deletions: frozenset[str] = frozenset()

    def counts(self) -> dict[str, int]:
        """Return the number of open creations by group."""
        return dict(Counter(self.creations.values()))

    def __bool__(self) -> bool:
        return bool(self.creations or self.deletions)


@dataclass(slots=True)
class _Owned:
    creations: dict[ObjectKey, tuple[float, str]] = field(default_factory=dict)
    deletions: dict[str, float] = field(default_factory=dict)

    def next_expiry(self) -> float | None:
        return min((*(until for until, _ in self.creations.values()), *self.deletions.values()), default=None)


class Expectations(Generic[O]):
    """Open creations and deletions by owner. Times are seconds of the caller's monotonic clock, passed as `now`."""

    def __init__(self, *, expiry: float = EXPIRY) -> None:
        if not SHORTEST_EXPIRY <= expiry <= LONGEST_EXPIRY:
            raise ValueError(f"expiry must be {SHORTEST_EXPIRY:g} to {LONGEST_EXPIRY:g} seconds, not {expiry:g}")
        self._expiry = expiry
        self._owned: dict[O, _Owned] = {}
        self._creators: dict[ObjectKey, O] = {}
        self._deleters: dict[str, O] = {}
        self.expired = 0
        """Expectations that nobody settled (a metric: in a healthy system it stays 0)."""

    # --- recording, before the call

    def expect_creation(self, owner: O, key: ObjectKey, now: float, *, group: str = "") -> None:
        """Record that `owner` is about to create the object `key`, a name not used before, counted in `group`."""
        self._owned.setdefault(owner, _Owned()).creations[key] = (now + self._expiry, group)
        self._creators[key] = owner

    def expect_deletion(self, owner: O, uid: str, now: float) -> None:
        """Record that `owner` is about to delete the object with this UID."""
        self._owned.setdefault(owner, _Owned()).deletions[uid] = now + self._expiry
        self._deleters[uid] = owner

    # --- settling

    def creation_failed(self, key: ObjectKey, error: ApiError) -> None:
        """Take a creation back that the server refused; one without an answer may have been done, so it stays open."""
        if not isinstance(error, UnavailableError):
            self._settle_creation(key)

    def deletion_failed(self, uid: str, error: ApiError) -> None:
        """Take a deletion back that the server refused (the object being gone is such a refusal)."""
        if not isinstance(error, UnavailableError):
            self._settle_deletion(uid)

    def observe(self, change: Change[Any]) -> None:
        """Settle what the cache shows now: created objects by name, deleted or terminating ones by UID."""
        if change.new is not None:
            self._settle_creation(change.new.key)
        if change.type is ChangeType.DELETED or change.entry.deleting:
            self._settle_deletion(change.entry.uid)

    def forget(self, owner: O) -> None:
        """Drop everything of an owner that is gone."""
        owned = self._owned.pop(owner, None)
        if owned is not None:
            for key in owned.creations:
                self._creators.pop(key, None)
            for uid in owned.deletions:
                self._deleters.pop(uid, None)

    # --- asking

    def pending(self, owner: O, now: float) -> Pending:
        """Return what is still open for `owner`; expired expectations are dropped and logged."""
        self._expire(owner, now)
        owned = self._owned.get(owner)
        if owned is None:
            return Pending()
        creations = {key: group for key, (_, group) in owned.creations.items()}
        return Pending(creations, frozenset(owned.deletions))

    def satisfied(self, owner: O, now: float) -> bool:
        """Whether nothing is open for `owner`."""
        return not self.pending(owner, now)

    def next_expiry(self, owner: O) -> float | None:
        """Return when the oldest open expectation expires: look again then, since no event may come."""
        owned = self._owned.get(owner)
        return owned.next_expiry() if owned is not None else None

    # --- inside

    def _expire(self, owner: O, now: float) -> None:
        owned = self._owned.get(owner)
        if owned is None or (owned.next_expiry() or 0.0) > now:
            return
        lost = [key for key, (until, _) in owned.creations.items() if until <= now]
        stuck = [uid for uid, until in owned.deletions.items() if until <= now]
        self.expired += len(lost) + len(stuck)
        log.warning("%s: the cache never showed creations %s and deletions %s", owner, [*map(str, lost)], stuck)
        for key in lost:
            self._settle_creation(key)
        for uid in stuck:
            self._settle_deletion(uid)

    def _settle_creation(self, key: ObjectKey) -> None:
        owner = self._creators.pop(key, None)
        if owner is not None:
            owned = self._owned[owner]
            owned.creations.pop(key, None)
            self._drop_empty(owner, owned)

    def _settle_deletion(self, uid: str) -> None:
        owner = self._deleters.pop(uid, None)
        if owner is not None:
            owned = self._owned[owner]
            owned.deletions.pop(uid, None)
            self._drop_empty(owner, owned)

    def _drop_empty(self, owner: O, owned: _Owned) -> None:
        if not owned.creations and not owned.deletions:
            del self._owned[owner]
