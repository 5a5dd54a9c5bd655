"""What the broker knows of members and leases: a cache of what the members' guards say, merged report by report.

Pure: every method takes `now` (Unix seconds). Nothing here can lease a slot twice, because only a guard grants; a wrong
entry costs one refused grant.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from shoal.api.services.leases import (
    EnvironmentReport,
    Grant,
    Lease,
    MemberReport,
    Released,
    SlotReport,
    SlotState,
)

# A member that has been silent for this long will not come back under the same name and process.
FORGET_SECONDS = 120.0

UNKNOWN = -1
Process = tuple[str, float]


@dataclass(slots=True)
class MemberRow:
    """One member. `reserved` grants are on their way to it; `suspect` means: no grants until it reports again.

    `stamps` says of which revision of the guard each slot's state is.
    """

    report: MemberReport
    last_seen: float
    slots: dict[int, SlotReport] = field(default_factory=dict)
    stamps: dict[int, int] = field(default_factory=dict)
    free_slots: set[int] = field(default_factory=set)
    leases: set[str] = field(default_factory=set)
    reserved: int = 0
    suspect: bool = False
    lost: bool = False
    retiring: bool = False

    @property
    def free(self) -> int:
        """Slots that could be leased now, as far as is known."""
        return 0 if self.suspect or self.lost or self.retiring else len(self.free_slots) - self.reserved

    @property
    def process(self) -> Process:
        """Which process of the member this tells of."""
        return (self.report.uid, self.report.started_at)

    def put(self, slot: SlotReport, revision: int) -> bool:
        """Take over a slot's state; False when a newer one is known."""
        if self.stamps.get(slot.index, UNKNOWN) > revision:
            return False
        self.slots[slot.index], self.stamps[slot.index] = slot, revision
        if slot.state is SlotState.FREE:
            self.free_slots.add(slot.index)
        else:
            self.free_slots.discard(slot.index)
        return True


@dataclass(slots=True)
class LeaseRow:
    """One live lease; `lease` is None when it was learnt from a report, which does not tell the token."""

    lease_id: str
    key: str
    member: str
    slot: int
    revision: int
    lease: Lease | None


@dataclass(slots=True)
class Tally:
    """Counters that only grow."""

    grants: int = 0
    releases: int = 0
    lost: int = 0


@dataclass(slots=True)
class Ledger:
    """Members and leases."""

    lost_after: float
    tally: Tally = field(default_factory=Tally)
    members: dict[str, MemberRow] = field(default_factory=dict)
    _by_id: dict[str, LeaseRow] = field(default_factory=dict)
    _by_key: dict[str, LeaseRow] = field(default_factory=dict)
    _available: dict[str, OrderedDict[str, None]] = field(default_factory=dict)
    _past: EnvironmentReport = field(default_factory=EnvironmentReport)

    # Members

    def report(self, report: MemberReport, now: float) -> list[tuple[str, str]]:
        """Merge a member's report; the orphans (member, lease id) that should be released.

        What is newer than the report (by process, then by revision of the guard) is kept.
        An orphan is a lease whose key holds another lease by now: the answer to its grant was lost on the way.
        """
        row = self.members.get(report.name)
        if row is not None and (report.uid, report.started_at) != row.process:
            if report.started_at < row.report.started_at:
                return []
            self._drop(row)
            row = None
        if row is None:
            row = MemberRow(report, now)
            self.members[report.name] = row
        row.last_seen, row.lost, row.suspect = now, False, False
        orphans = self._merge(row, report)
        self._refresh(report.name)
        return orphans

    def goodbye(self, name: str, uid: str) -> None:
        """The member stops; its leases are lost."""
        row = self.members.get(name)
        if row is not None and uid in ("", row.report.uid):
            self._drop(row)

    def sweep(self, now: float) -> list[str]:
        """Give up leases of members that are silent for too long; the names of the members newly lost."""
        newly = []
        for row in list(self.members.values()):
            silence = now - row.last_seen
            if silence >= FORGET_SECONDS:
                self._drop(row)
            elif silence >= self.lost_after and not row.lost:
                row.lost = True
                newly.append(row.report.name)
                self._lose_leases(row)
                self._refresh(row.report.name)
        return newly

    def retiring(self, name: str) -> None:
        """Ask the member for no more slots."""
        row = self.members.get(name)
        if row is not None:
            row.retiring = True
            self._refresh(name)

    # Free slots

    def variants_with_free(self) -> list[str]:
        """The variants that have a member with a free slot."""
        return [variant for variant, names in self._available.items() if names]

    def next_member(self, variant: str) -> str | None:
        """A member of the variant with a free slot; members take turns."""
        names = self._available.get(variant)
        if not names:
            return None
        name = next(iter(names))
        names.move_to_end(name)
        return name

    def reserve(self, name: str) -> None:
        """A grant is on its way to the member."""
        self.members[name].reserved += 1
        self._refresh(name)

    def unreserve(self, name: str, process: Process) -> None:
        """The grant was answered, or given up; nothing when another process has taken the member's name."""
        row = self.members.get(name)
        if row is not None and row.process == process:
            row.reserved = max(0, row.reserved - 1)
            self._refresh(name)

    def refused(self, name: str, *, suspect: bool) -> None:
        """The member had no free slot after all, or did not answer (`suspect`): ask others until it reports again."""
        row = self.members.get(name)
        if row is None:
            return
        row.suspect = row.suspect or suspect
        if not suspect:
            for index in list(row.free_slots):
                # With the old stamp, so that the next report is believed even if the guard has not changed since.
                row.put(row.slots[index].model_copy(update={"state": SlotState.RESETTING}), row.stamps[index])
        self._refresh(name)

    # Leases

    def by_id(self, lease_id: str) -> LeaseRow | None:
        """A live lease."""
        return self._by_id.get(lease_id)

    def by_key(self, key: str) -> LeaseRow | None:
        """A key's live lease."""
        return self._by_key.get(key)

    @property
    def leases(self) -> Iterable[LeaseRow]:
        """The live leases."""
        return self._by_id.values()

    def granted(self, name: str, grant: Grant, lease: Lease) -> bool:
        """A guard granted the lease; False when that process of the member is gone, and the lease with it."""
        row = self.members.get(name)
        if row is None or row.lost or grant.started_at < row.report.started_at:
            return False
        if (grant.uid, grant.started_at) != row.process:
            row = self._succeed(row, grant)
        known = self._by_id.get(grant.lease_id)
        if known is None or known.lease is None:
            self.tally.grants += 1
        self._add(LeaseRow(grant.lease_id, grant.key, name, grant.slot, grant.revision, lease))
        leased = SlotReport(
            index=grant.slot,
            state=SlotState.LEASED,
            lease_id=grant.lease_id,
            key=grant.key,
            holder=grant.holder,
            expires_at=grant.expires_at,
        )
        row.put(leased, grant.revision)
        self._refresh(name)
        return True

    def released(self, row: LeaseRow, answer: Released) -> None:
        """A guard took the lease back."""
        self.tally.releases += 1
        self._remove(row)
        member = self.members.get(row.member)
        if member is not None:
            member.put(SlotReport(index=answer.slot, state=answer.state), answer.revision)
            self._refresh(row.member)

    def over(self, row: LeaseRow) -> None:
        """A guard says that the lease is over."""
        self._remove(row)

    def environment(self) -> EnvironmentReport:
        """What all environments did, including those of members that are gone."""
        total = self._past
        for row in self.members.values():
            total = _sum(total, row.report.environment)
        return total

    # Details

    def _merge(self, row: MemberRow, report: MemberReport) -> list[tuple[str, str]]:
        if report.revision >= row.report.revision:
            row.report = report
        row.retiring = row.retiring or report.retiring
        leased = {slot.lease_id for slot in report.slots if slot.lease_id}
        for lease_id in row.leases - leased:
            known = self._by_id.get(lease_id)
            if known is None or known.member != report.name:
                row.leases.discard(lease_id)
            elif known.revision <= report.revision:
                self.over(known)
        orphans = []
        for slot in report.slots:
            if row.put(slot, report.revision) and slot.lease_id and not self._adopt(row, slot):
                orphans.append((report.name, slot.lease_id))
        return orphans

    def _adopt(self, row: MemberRow, slot: SlotReport) -> bool:
        name = row.report.name
        known = self._by_key.get(slot.key)
        if known is None:
            self._add(LeaseRow(slot.lease_id, slot.key, name, slot.index, row.stamps[slot.index], None))
            return True
        return known.member == name and known.lease_id == slot.lease_id

    def _succeed(self, row: MemberRow, grant: Grant) -> MemberRow:
        """The member's process is a new one: its grant came before its first report, which is to be believed then."""
        self._drop(row)
        identity = {"uid": grant.uid, "started_at": grant.started_at, "revision": UNKNOWN}
        report = row.report.model_copy(update={**identity, "slots": [], "environment": EnvironmentReport()})
        self.members[report.name] = MemberRow(report, row.last_seen)
        return self.members[report.name]

    def _drop(self, row: MemberRow) -> None:
        self._lose_leases(row)
        self._past = _sum(self._past, row.report.environment)
        name = row.report.name
        del self.members[name]
        for names in self._available.values():
            names.pop(name, None)

    def _lose_leases(self, row: MemberRow) -> None:
        for lease_id in list(row.leases):
            known = self._by_id.get(lease_id)
            if known is not None and known.member == row.report.name and self._remove(known):
                self.tally.lost += 1
        # Whatever it reports after the silence is believed.
        row.leases.clear()
        row.slots.clear()
        row.stamps.clear()
        row.free_slots.clear()

    def _add(self, row: LeaseRow) -> None:
        old = self._by_key.get(row.key)
        if old is not None:
            self._remove(old)
        self._by_id[row.lease_id] = self._by_key[row.key] = row
        self.members[row.member].leases.add(row.lease_id)

    def _remove(self, row: LeaseRow) -> bool:
        if self._by_id.get(row.lease_id) is not row:
            return False
        del self._by_id[row.lease_id]
        if self._by_key.get(row.key) is row:
            del self._by_key[row.key]
        member = self.members.get(row.member)
        if member is not None:
            member.leases.discard(row.lease_id)
        return True

    def _refresh(self, name: str) -> None:
        row = self.members[name]
        names = self._available.setdefault(row.report.variant, OrderedDict())
        if row.free > 0:
            names.setdefault(name, None)
        else:
            names.pop(name, None)


def _sum(left: EnvironmentReport, right: EnvironmentReport) -> EnvironmentReport:
    return EnvironmentReport(
        slot_seconds=left.slot_seconds + right.slot_seconds,
        occupied_seconds=left.occupied_seconds + right.occupied_seconds,
        active_seconds=left.active_seconds + right.active_seconds,
        episodes=left.episodes + right.episodes,
        steps=left.steps + right.steps,
        invalid_actions=left.invalid_actions + right.invalid_actions,
        errors=left.errors + right.errors,
        expiries=left.expiries + right.expiries,
    )
