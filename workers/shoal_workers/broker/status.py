"""The broker's status, made of the ledger and the queue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from shoal.api.services.leases import BrokerStatus, MemberStatus, SlotTotals, VariantTotals
from shoal_workers.broker.ledger import Ledger, MemberRow
from shoal_workers.broker.matching import ANY, Queue
from shoal_workers.environment.totals import totals


def status_of(
    ledger: Ledger, queue: Queue, waits: Iterable[float], refused: int, uptime: float, now: float
) -> BrokerStatus:
    """The status at `now`; `waits` are the seconds that the last grants waited."""
    members = [_member(row, now) for row in ledger.members.values()]
    environment = ledger.environment()
    ordered = sorted(waits)
    return BrokerStatus(
        members=members,
        slots=_add(member.slots for member in members if not member.lost),
        variants=_variants(members, queue),
        queued=len(queue),
        queued_any=queue.waiting(ANY),
        grants=ledger.tally.grants,
        releases=ledger.tally.releases,
        expiries=environment.expiries,
        lost=ledger.tally.lost,
        refused=refused,
        wait_p50=quantile(ordered, 0.5),
        wait_p99=quantile(ordered, 0.99),
        episodes=environment.episodes,
        steps=environment.steps,
        errors=environment.errors,
        slot_seconds=environment.slot_seconds,
        occupied_seconds=environment.occupied_seconds,
        active_seconds=environment.active_seconds,
        uptime_seconds=uptime,
    )


def quantile(ordered: list[float], share: float) -> float:
    """The smallest of the ordered values that at least `share` of them do not exceed; 0 for none."""
    if not ordered:
        return 0.0
    rank = -int(-share * len(ordered) // 1)
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def _member(row: MemberRow, now: float) -> MemberStatus:
    return MemberStatus(
        name=row.report.name,
        uid=row.report.uid,
        url=row.report.url,
        variant=row.report.variant,
        slots=totals(slot.state for slot in row.slots.values()),
        retiring=row.retiring,
        age=max(0.0, now - row.last_seen),
        lost=row.lost,
        episodes=row.report.environment.episodes,
        last_error=row.report.environment.last_error,
    )


def _variants(members: list[MemberStatus], queue: Queue) -> dict[str, VariantTotals]:
    by_name: dict[str, list[MemberStatus]] = defaultdict(list)
    for name in queue.variants():
        by_name[name] = []
    for member in members:
        if not member.lost:
            by_name[member.variant].append(member)
    return {
        name: VariantTotals(
            members=len(group), slots=_add(member.slots for member in group), queued=queue.waiting(name)
        )
        for name, group in by_name.items()
    }


def _add(parts: Iterable[SlotTotals]) -> SlotTotals:
    sums = dict.fromkeys(SlotTotals.model_fields, 0)
    for part in parts:
        for name in sums:
            sums[name] += getattr(part, name)
    return SlotTotals(**sums)
