"""How many members a pool and how many engines a fleet should have."""

from dataclasses import dataclass, replace
from math import ceil

from shoal.api.v1alpha1.common import resolve_count, seconds
from shoal.api.v1alpha1.environmentpool import PoolScale
from shoal.api.v1alpha1.rolloutfleet import FleetAutoscale, WorkerGroup

HEADROOM = 0.8
"""An engine is removed only if the others would then stay this far below the target; else it would come right back."""


@dataclass(frozen=True)
class Demand:
    """Slots that are in use or asked for."""

    leased: int = 0
    queued: int = 0


@dataclass(frozen=True)
class ScaleMemory:
    """The size that was decided last, and since when (seconds since the epoch) another one would have been right.

    The size is not what is counted: pods that were lost, and those that are there twice while they are replaced, must
    not change what is wanted. None after a restart, when the status tells it.
    """

    size: int | None = None
    smaller_since: float | None = None
    busier_since: float | None = None

    @property
    def waiting(self) -> bool:
        """Whether a change of size is due when its delay has passed."""
        return self.smaller_since is not None or self.busier_since is not None


@dataclass(frozen=True)
class Refill:
    """Members that may be created now, of those that `refillRate` allows in a second; `at` in seconds since the epoch.

    A token bucket of one second's depth. Losing it (a restart) costs at most one second's members too early.
    """

    left: float
    at: float

    @classmethod
    def at_rate(cls, before: "Refill | None", rate: int, now: float) -> "Refill":
        """What is allowed now: everything at first, and what the time since the last look has brought."""
        if before is None:
            return cls(rate, now)
        # A clock that was set back brings nothing, and takes nothing away.
        return cls(min(rate, before.left + max(0.0, now - before.at) * rate), now)

    def less(self, members: int) -> "Refill":
        """After the creation of so many."""
        return replace(self, left=self.left - members)


def demanded_members(demand: Demand, scale: PoolScale, slots_per_member: int) -> int:
    """Members for the demand and the free buffer: ceil((leased + queued + buffer) / slots), within min and max."""
    used = demand.leased + demand.queued
    slots = used + resolve_count(scale.buffer, used)
    return min(scale.max, max(scale.min, ceil(slots / slots_per_member)))


def settle_members(
    wanted: int, current: int, scale: PoolScale, memory: ScaleMemory, now: float
) -> tuple[int, ScaleMemory, float | None]:
    """The size to hold now: growth at once, shrinking only after `scaleDownDelay` of steadily smaller demand.

    Returns:
        the size, the memory for the next pass, and the seconds until the delay has passed (None when nothing waits).
    """
    if wanted >= current:
        return wanted, replace(memory, size=wanted, smaller_since=None), None
    since = now if memory.smaller_since is None else memory.smaller_since
    wait = since + seconds(scale.scale_down_delay) - now
    if wait <= 0:
        return wanted, replace(memory, size=wanted, smaller_since=None), None
    return current, replace(memory, size=current, smaller_since=since), wait


def split_by_weight(total: int, weights: list[int]) -> list[int]:
    """`total` shared out in proportion to `weights`, by largest remainder; the shares add up to `total`."""
    whole = sum(weights)
    if whole == 0:
        return [0 for _ in weights]
    exact = [total * weight / whole for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda index: (shares[index] - exact[index], index))
    for index in by_remainder[: total - sum(shares)]:
        shares[index] += 1
    return shares


def engines_per_group(groups: list[WorkerGroup], total: int) -> list[int]:
    """`total` engines over the groups: every group its min first, then in order up to each max."""
    counts = [group.replicas.min for group in groups]
    surplus = sum(counts) - total
    for index in reversed(range(len(groups))):
        cut = min(counts[index], max(0, surplus))
        counts[index] -= cut
        surplus -= cut
    missing = total - sum(counts)
    for index, group in enumerate(groups):
        extra = min(max(0, missing), group.replicas.max - counts[index])
        counts[index] += extra
        missing -= extra
    return counts


@dataclass(frozen=True)
class FleetLoad:
    """What the gateway reports: waiting requests over the fleet, and mean KV-cache use in percent."""

    queued: int
    kv_use_percent: float


def settle_engines(
    current: int, low: int, high: int, load: FleetLoad | None, rule: FleetAutoscale, memory: ScaleMemory, now: float
) -> tuple[int, ScaleMemory]:
    """One engine more or fewer, once the load has asked for it during a whole window; unchanged without a reading.

    The rule is threshold-with-window as in the Kubernetes HPA's stabilisation; a missing reading never scales down.
    """
    current = min(high, max(low, current))
    if load is None:
        return current, replace(memory, size=current)
    busy = load.queued > rule.target_queue * max(1, current) or load.kv_use_percent > rule.target_kv_use_percent
    fits_fewer = (
        load.queued == 0 and load.kv_use_percent * current < rule.target_kv_use_percent * (current - 1) * HEADROOM
    )
    memory = ScaleMemory(
        size=current,
        smaller_since=(memory.smaller_since or now) if fits_fewer and current > low else None,
        busier_since=(memory.busier_since or now) if busy and current < high else None,
    )
    if memory.busier_since is not None and now - memory.busier_since >= seconds(rule.scale_up_window):
        return current + 1, ScaleMemory(current + 1)
    if memory.smaller_since is not None and now - memory.smaller_since >= seconds(rule.scale_down_window):
        return current - 1, ScaleMemory(current - 1)
    return current, memory
