"""Counting slots by state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from shoal.api.services.leases import SlotState, SlotTotals


def totals(states: Iterable[SlotState]) -> SlotTotals:
    """The numbers of slots in each state; a slot that is resetting is on its way to free and counts as provisioning."""
    count = Counter(states)
    return SlotTotals(
        total=count.total(),
        leased=count[SlotState.LEASED],
        free=count[SlotState.FREE],
        provisioning=count[SlotState.RESETTING],
        quarantined=count[SlotState.QUARANTINED],
        retired=count[SlotState.RETIRED],
    )
