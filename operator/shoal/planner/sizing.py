"""How many members a pool and how many engines a fleet should have."""

from dataclasses import dataclass, replace
from math import ceil

from shoal.api.v1alpha1.common import resolve_count, seconds
from shoal.api.v1alpha1.environmentpool import PoolScale
from shoal.api.v1alpha1.rolloutfleet import FleetAutoscale, WorkerGroup

HEADROOM = 0.8
"""Engines are removed only if the others would then stay this far below the target; else they would come right back."""

LEAST_STEP = 4
"""Engines by which a small fleet may grow in one window, where doubling would be slower (the HPA's default policy)."""


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
    """What the gateway reports: requests that wait and that run over the fleet, and mean KV-cache use in percent."""

    queued: int
    kv_use_percent: float
    running: int = 0


def wanted_engines(current: int, low: int, high: int, load: FleetLoad, rule: FleetAutoscale) -> int:
    """Engines that the load asks for.

    As in the Kubernetes HPA, ceil(current * value / target) of the figure that is furthest above its target: waiting
    requests per engine, and KV-cache use. Fewer only where nothing waits and the rest would stay `HEADROOM` below the
    target; none only where nothing runs either.
    """
    for_queue = ceil(load.queued / rule.target_queue) if load.queued > rule.target_queue * current else 0
    over = load.kv_use_percent > rule.target_kv_use_percent
    for_cache = ceil(current * load.kv_use_percent / rule.target_kv_use_percent) if over else 0
    more = max(for_queue, for_cache)
    if more > current:
        return min(high, more)
    if load.queued or more:
        return current
    work = load.kv_use_percent * current / (rule.target_kv_use_percent * HEADROOM)
    # An engine that would be exactly at the limit has no headroom.
    fewer = int(work) + 1 if work or load.running else 0
    return min(current, max(low, fewer))


def settle_engines(
    current: int, low: int, high: int, load: FleetLoad | None, rule: FleetAutoscale, memory: ScaleMemory, now: float
) -> tuple[int, ScaleMemory]:
    """The size to hold now: another one once the load has asked for it during a whole window; unchanged without a
    reading.

    Stabilisation windows as in the Kubernetes HPA, and its default pace: at most twice as many engines, or four more,
    per window. Shrinking halves at most, as what is drained has caches that are worth keeping. A fleet without engines
    that is asked for something wakes at once: no window would tell more. A missing reading never scales down.
    """
    current = min(high, max(low, current))
    if load is None:
        return current, replace(memory, size=current)
    wanted = wanted_engines(current, low, high, load, rule)
    if current == 0 and wanted:
        return wanted, ScaleMemory(wanted)
    memory = ScaleMemory(
        size=current,
        smaller_since=(memory.smaller_since or now) if wanted < current else None,
        busier_since=(memory.busier_since or now) if wanted > current else None,
    )
    if memory.busier_since is not None and now - memory.busier_since >= seconds(rule.scale_up_window):
        size = min(wanted, max(2 * current, current + LEAST_STEP))
        return size, ScaleMemory(size)
    if memory.smaller_since is not None and now - memory.smaller_since >= seconds(rule.scale_down_window):
        size = max(wanted, current // 2)
        return size, ScaleMemory(size)
    return current, memory
