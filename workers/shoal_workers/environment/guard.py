"""The lease guard: the one place that decides who holds a slot.

A pure machine. Every method takes `now` (Unix seconds), does one transition completely or raises and changes nothing,
and never waits; the server calls it from one event loop, so each call is a compare-and-set.

    free -> leased -> resetting -> free
                          |   `--> quarantined      (the reset failed, or too many faults)
                          `------> retired          (asked to, too many episodes, too old, ephemeral, no room)

A slot starts in `resetting`: it becomes free when its environment is ready. A free slot whose environment has gone
away goes back there.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shoal.api.services.leases import GrantRequest, Outcome, SlotReport, SlotState

_UNKNOWN_STATE = frozenset({Outcome.DIRTY, Outcome.FAULT})


class GuardError(Exception):
    """A transition that is not possible; `name` is the problem's name."""

    name = "guard-error"


class NoFreeSlotError(GuardError):
    """No slot is free."""

    name = "no-free-slot"


class LeaseLostError(GuardError):
    """The lease is not, or no longer, held here."""

    name = "lease-lost"


class MemberLeasedError(GuardError):
    """Slots cannot retire at once, because some are leased."""

    name = "member-leased"


@dataclass(frozen=True, slots=True)
class ReusePolicy:
    """When a slot is used again: see LifecycleConfig for the fields. Durations are seconds."""

    ephemeral: bool = False
    max_episodes: int | None = None
    max_age: float | None = None
    quarantine: int = 1


@dataclass(slots=True)
class Held:
    """A live lease."""

    lease_id: str
    key: str
    holder: str
    token: str
    slot: int
    ttl: float
    granted_at: float
    expires_at: float
    hard_end: float
    faulty: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Reset:
    """Work for the server: make the slot ready. `generation` must come back with the result.

    `rebuild` says that the environment's state is not to be trusted: throw the instance away and make a new one.
    """

    slot: int
    generation: int
    rebuild: bool


@dataclass(slots=True)
class _Slot:
    index: int
    state: SlotState = SlotState.RESETTING
    lease: Held | None = None
    generation: int = 0
    episodes: int = 0
    faults: int = 0
    ready_at: float | None = None
    retiring: bool = False
    absent: bool = False
    reason: str = ""


@dataclass(slots=True)
class Guard:
    """The slots of one member. `revision` grows with every change, so that reports can be ordered."""

    count: int
    policy: ReusePolicy = field(default_factory=ReusePolicy)
    new_token: Callable[[], str] = field(default=lambda: secrets.token_urlsafe(18))
    revision: int = 0
    expiries: int = 0
    _slots: list[_Slot] = field(init=False)
    _by_id: dict[str, Held] = field(init=False, default_factory=dict)
    _by_key: dict[str, Held] = field(init=False, default_factory=dict)
    _by_token: dict[str, Held] = field(init=False, default_factory=dict)
    _free: list[int] = field(init=False, default_factory=list)
    _resets: list[Reset] = field(init=False, default_factory=list)
    _expired: list[Held] = field(init=False, default_factory=list)
    _earliest: float = field(init=False, default=math.inf)

    def __post_init__(self) -> None:
        self._slots = [_Slot(index) for index in range(self.count)]
        self._resets = [Reset(index, 0, rebuild=True) for index in range(self.count)]

    # Leases

    def grant(self, request: GrantRequest, now: float) -> Held:
        """Lease a free slot, or give the same key its live lease again; raises NoFreeSlotError."""
        self.tick(now)
        known = self._by_key.get(request.key)
        if known is not None:
            return known
        if request.lease_id in self._by_id:
            raise NoFreeSlotError(f"lease id {request.lease_id} is in use by another key")
        if not self._free:
            raise NoFreeSlotError("no slot is free")
        slot = self._slots[self._free.pop()]
        hard_end = now + request.max_seconds
        lease = Held(
            lease_id=request.lease_id,
            key=request.key,
            holder=request.holder,
            token=self.new_token(),
            slot=slot.index,
            ttl=request.ttl,
            granted_at=now,
            expires_at=min(now + request.ttl, hard_end),
            hard_end=hard_end,
        )
        slot.state, slot.lease = SlotState.LEASED, lease
        self._by_id[lease.lease_id] = self._by_key[lease.key] = self._by_token[lease.token] = lease
        self._earliest = min(self._earliest, lease.expires_at)
        self.revision += 1
        return lease

    def renew(self, lease_id: str, ttl: float | None, now: float) -> Held:
        """Let the lease live `ttl` (None: its own) seconds from now, never past its hard end; raises LeaseLostError."""
        self.tick(now)
        lease = self._held(lease_id)
        lease.ttl = ttl or lease.ttl
        lease.expires_at = min(now + lease.ttl, lease.hard_end)
        self._earliest = min(self._earliest, lease.expires_at)
        return lease

    def release(self, lease_id: str, outcome: Outcome, now: float) -> SlotState:
        """End the lease; the slot's new state. Raises LeaseLostError when it is over already."""
        self.tick(now)
        return self._end(self._held(lease_id), outcome, now)

    def lookup(self, token: str, now: float) -> Held:
        """The live lease of a token; raises LeaseLostError."""
        self.tick(now)
        lease = self._by_token.get(token)
        if lease is None:
            raise LeaseLostError("the lease has expired or was released")
        return lease

    def find(self, lease_id: str) -> Held | None:
        """The lease with this id, when it is not over."""
        return self._by_id.get(lease_id)

    def mark_faulty(self, lease_id: str) -> None:
        """Whatever outcome its holder reports, the lease will end as a fault; nothing when it is over already."""
        lease = self._by_id.get(lease_id)
        if lease is not None:
            lease.faulty = True

    def mark_lost(self, lease_id: str) -> None:
        """The environment went away under the lease: a fault of its episode that does not count against the slot."""
        lease = self._by_id.get(lease_id)
        if lease is not None:
            lease.lost = True

    # Readiness

    def take_resets(self) -> list[Reset]:
        """The resets that became due since the last call."""
        due, self._resets = self._resets, []
        return due

    def reset_done(self, reset: Reset, now: float) -> bool:
        """The slot is ready: free it. False, and no change, when the slot has moved on since that reset began."""
        slot = self._slots[reset.slot]
        if slot.state is not SlotState.RESETTING or slot.generation != reset.generation:
            return False
        slot.ready_at = now if slot.ready_at is None or reset.rebuild else slot.ready_at
        slot.reason = ""
        self._free_or_retire(slot, now)
        return True

    def reset_failed(self, reset: Reset, reason: str) -> bool:
        """The slot cannot be trusted: quarantine it. False when the slot has moved on since that reset began."""
        slot = self._slots[reset.slot]
        if slot.state is not SlotState.RESETTING or slot.generation != reset.generation:
            return False
        slot.reason = reason
        self._to(slot, SlotState.RETIRED if slot.retiring else SlotState.QUARANTINED)
        return True

    def no_room(self, reset: Reset, reason: str) -> bool:
        """There is no place for this slot's environment: it counts no more. False when the slot has moved on."""
        slot = self._slots[reset.slot]
        if slot.state is not SlotState.RESETTING or slot.generation != reset.generation:
            return False
        slot.absent, slot.reason = True, reason
        self._to(slot, SlotState.RETIRED)
        return True

    def distrust(self, index: int) -> bool:
        """A free slot's environment is gone: make it ready anew. False when the slot is not free."""
        slot = self._slots[index]
        if slot.state is not SlotState.FREE:
            return False
        self._reset(slot, rebuild=True)
        return True

    def explain(self, reset: Reset, reason: str) -> None:
        """Keep why a slot is still not ready (an environment that starts slowly), for the reports."""
        slot = self._slots[reset.slot]
        if slot.state is SlotState.RESETTING and slot.generation == reset.generation and slot.reason != reason:
            slot.reason = reason
            self.revision += 1

    # Retirement and time

    def retire(self, slots: int | None, drain: bool, now: float) -> tuple[int, int]:
        """Take `slots` (None: all) out of service; the numbers retired and still leased.

        Idle slots go first. Without `drain` nothing changes while a lease is live: raises MemberLeasedError.
        """
        self.tick(now)
        if self._by_id and not drain:
            raise MemberLeasedError(f"{len(self._by_id)} of {self.count} slots are leased")
        order = sorted(self._slots, key=lambda slot: (slot.state is SlotState.LEASED, slot.index))
        chosen = order if slots is None else order[:slots]
        for slot in chosen:
            if slot.state is SlotState.RETIRED or (slot.state is SlotState.LEASED and slot.retiring):
                continue
            slot.retiring = True
            if slot.state is SlotState.LEASED:
                self.revision += 1
            else:
                self._to(slot, SlotState.RETIRED)
        retired = sum(slot.state is SlotState.RETIRED for slot in self._slots)
        return retired, len(self._by_id)

    def tick(self, now: float) -> None:
        """Expire leases without a heartbeat and retire idle slots that are too old."""
        # Renewals only move an expiry later, so nothing can be due before the earliest one seen.
        if self._earliest <= now:
            for lease in [lease for lease in self._by_id.values() if lease.expires_at <= now]:
                self.expiries += 1
                self._expired.append(lease)
                self._end(lease, Outcome.DIRTY, now)
            self._earliest = min((lease.expires_at for lease in self._by_id.values()), default=math.inf)
        if self.policy.max_age is not None:
            for index in [index for index in self._free if self._too_old(self._slots[index], now)]:
                self._to(self._slots[index], SlotState.RETIRED)

    def take_expired(self) -> list[Held]:
        """The leases that expired since the last call."""
        expired, self._expired = self._expired, []
        return expired

    # Views

    @property
    def leases(self) -> Iterable[Held]:
        """The live leases."""
        return self._by_id.values()

    @property
    def retiring(self) -> bool:
        """Whether every slot is retired or will be: the member serves no new lease."""
        return all(slot.retiring or slot.state is SlotState.RETIRED for slot in self._slots)

    @property
    def exhausted(self) -> bool:
        """Whether slots retired and none is left that is, or will be, of use: the member has done its work."""
        states = [slot.state for slot in self._slots if not slot.absent]
        out = (SlotState.QUARANTINED, SlotState.RETIRED)
        return SlotState.RETIRED in states and all(state in out for state in states)

    @property
    def started(self) -> bool:
        """Whether every slot has been ready once, or is out of service."""
        out = (SlotState.QUARANTINED, SlotState.RETIRED)
        return all(slot.ready_at is not None or slot.state in out for slot in self._slots)

    def report(self) -> list[SlotReport]:
        """Every slot that there is a place for, as told to the broker."""
        return [_report(slot) for slot in self._slots if not slot.absent]

    @property
    def free(self) -> list[int]:
        """The free slots."""
        return list(self._free)

    @property
    def absent(self) -> list[str]:
        """Why there is no place for slots, one reason each."""
        return [slot.reason for slot in self._slots if slot.absent]

    # Transitions

    def _held(self, lease_id: str) -> Held:
        lease = self._by_id.get(lease_id)
        if lease is None:
            raise LeaseLostError(f"lease {lease_id} has expired or was released")
        return lease

    def _end(self, lease: Held, outcome: Outcome, now: float) -> SlotState:
        del self._by_id[lease.lease_id], self._by_key[lease.key], self._by_token[lease.token]
        outcome = Outcome.FAULT if lease.faulty else outcome
        outcome = Outcome.DIRTY if lease.lost and outcome is not Outcome.OK else outcome
        slot = self._slots[lease.slot]
        slot.lease = None
        slot.episodes += 1
        slot.faults += outcome is Outcome.FAULT
        if slot.faults >= self.policy.quarantine and outcome is Outcome.FAULT and not slot.retiring:
            slot.reason = f"{slot.faults} episodes ended in a fault"
            self._to(slot, SlotState.QUARANTINED)
        elif self._worn_out(slot, now):
            self._to(slot, SlotState.RETIRED)
        else:
            self._reset(slot, rebuild=outcome in _UNKNOWN_STATE)
        return slot.state

    def _reset(self, slot: _Slot, *, rebuild: bool) -> None:
        slot.generation += 1
        self._to(slot, SlotState.RESETTING)
        self._resets.append(Reset(slot.index, slot.generation, rebuild=rebuild))

    def _free_or_retire(self, slot: _Slot, now: float) -> None:
        worn = slot.retiring or self._too_old(slot, now)
        self._to(slot, SlotState.RETIRED if worn else SlotState.FREE)

    def _worn_out(self, slot: _Slot, now: float) -> bool:
        limit = self.policy.max_episodes
        used_up = limit is not None and slot.episodes >= limit
        return slot.retiring or self.policy.ephemeral or used_up or self._too_old(slot, now)

    def _too_old(self, slot: _Slot, now: float) -> bool:
        age = self.policy.max_age
        return age is not None and slot.ready_at is not None and now - slot.ready_at >= age

    def _to(self, slot: _Slot, state: SlotState) -> None:
        if slot.state is SlotState.FREE:
            self._free.remove(slot.index)
        slot.state = state
        if state is SlotState.FREE:
            self._free.append(slot.index)
        self.revision += 1


def _report(slot: _Slot) -> SlotReport:
    lease = slot.lease
    return SlotReport(
        index=slot.index,
        state=slot.state,
        lease_id=lease.lease_id if lease else "",
        key=lease.key if lease else "",
        holder=lease.holder if lease else "",
        expires_at=lease.expires_at if lease else 0.0,
        episodes=slot.episodes,
        faults=slot.faults,
        retiring=slot.retiring,
        reason=slot.reason,
    )
