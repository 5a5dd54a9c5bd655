"""The weight roll-out as a pure function: what engines have, what they shall have -> who loads now, who serves now."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from shoal.api.services.models import WeightsTarget

# An update that failed is tried again, but a broken engine must not be asked without pause.
RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Key:
    """What makes weights the same: their run, their version, and their checksum where one was published."""

    version: int
    checksum: str = ""
    run: str = ""


ORIGINAL = Key(0)


def key_of(weights: WeightsTarget | None) -> Key:
    """The key of published weights; of none, the model's original ones."""
    return ORIGINAL if weights is None else Key(weights.version, weights.checksum, weights.run)


@dataclass(frozen=True, slots=True)
class Member:
    """One engine in the roll-out's eyes.

    Args:
        name: of the engine.
        key: weights it reports.
        able: it reports, is ready, and is not being drained.
        admitted: it has served since it started, so it may go on while others are updated. A new engine may not: it
            starts from the original weights, which can be any number of versions behind.
        updating: it was told to load weights and has not answered.
        preparing: it looks at them first, and serves meanwhile.
        lagging_since: since when it has not had the target, None while it has.
        failures: updates that failed in a row.
        retry_at: when it may be told again after a failure.
        intact: its weights are those it reports; False after an update that broke it.
    """

    name: str
    key: Key
    able: bool = True
    admitted: bool = False
    updating: bool = False
    preparing: bool = False
    lagging_since: float | None = None
    failures: int = 0
    retry_at: float = 0.0
    intact: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now: engines to update, engines that may serve, members as they are now, when to look again."""

    update: tuple[str, ...]
    serve: frozenset[str]
    members: Mapping[str, Member]
    wake_at: float | None


def plan(
    members: Sequence[Member],
    target: Key,
    max_unavailable: int,
    update_timeout: float,
    now: float,
    most: int | None = None,
) -> Plan:
    """One look at the fleet.

    At most max(1, max_unavailable) engines that were serving are out of service for an update at a time; engines that
    never served load at once, since nobody misses them. The oldest weights are replaced first, so a target that moves
    faster than the roll-out starves nobody. An engine may serve older weights while others take their turn, but no
    longer than the whole roll-out may take: ceil(n / max_unavailable) * update_timeout. Weights of another run are not
    older weights but wrong ones: such an engine serves nobody, and loads at once.

    `most` engines load at a time whatever else holds: 1 while the target is on trial, 0 where there is nothing to load.
    """
    allowed = max(1, max_unavailable)
    limit = math.ceil(max(1, len(members)) / allowed) * update_timeout
    seen = [_observe(member, target, now) for member in members]
    starting = _choose(seen, target, allowed, now)
    if most is not None:
        starting = starting[: max(0, most - sum(member.updating for member in seen))]
    after = {member.name: _told(member) if member.name in starting else member for member in seen}
    serve = frozenset(member.name for member in after.values() if _serves(member, target, limit, now))
    return Plan(starting, serve, after, _wake_at(after.values(), serve, limit, now))


def prepared(member: Member) -> Member:
    """The member after it has looked at the weights that it will load now."""
    return replace(member, preparing=False)


def succeeded(member: Member, key: Key) -> Member:
    """The member after it loaded weights."""
    return replace(member, key=key, updating=False, preparing=False, failures=0, retry_at=0.0, intact=True)


def failed(member: Member, now: float, *, intact: bool) -> Member:
    """The member after an update failed; `intact`: it still serves what it had."""
    delay = min(LONGEST_RETRY_SECONDS, RETRY_SECONDS * 2**member.failures)
    failures = member.failures + 1
    return replace(member, updating=False, preparing=False, failures=failures, retry_at=now + delay, intact=intact)


def _told(member: Member) -> Member:
    return replace(member, updating=True, preparing=True)


def _observe(member: Member, target: Key, now: float) -> Member:
    if member.key == target:
        return replace(member, lagging_since=None, admitted=member.admitted or (member.able and member.intact))
    if not _related(member.key, target):
        member = replace(member, admitted=False)
    return member if member.lagging_since is not None else replace(member, lagging_since=now)


def _choose(members: Sequence[Member], target: Key, allowed: int, now: float) -> tuple[str, ...]:
    idle = [member for member in members if member.able and not member.updating and member.retry_at <= now]
    waiting = [member for member in idle if member.key != target or not member.intact]
    fresh = [member.name for member in waiting if not member.admitted]
    serving = sorted((m for m in waiting if m.admitted), key=lambda m: (m.intact, m.key.version, m.name))
    out = sum(1 for member in members if member.admitted and (member.updating or not member.able))
    busy = any(member.admitted and member.updating for member in members)
    # A dead engine that nobody replaces must not keep the others on old weights for ever: one may always go.
    free = max(allowed - out, 0 if busy else 1)
    return tuple(fresh + [member.name for member in serving[:free]])


def _wake_at(members: Iterable[Member], serve: frozenset[str], limit: float, now: float) -> float | None:
    """When time alone changes the answer: a retry comes due, or an engine has been behind for too long."""
    times: list[float] = []
    for member in members:
        if member.able and not member.updating and member.retry_at > now:
            times.append(member.retry_at)
        if member.name in serve and member.lagging_since is not None:
            times.append(member.lagging_since + limit)
    return min(times, default=None)


def _related(key: Key, target: Key) -> bool:
    """Whether weights may stand in for the target for a while; those that a model came with are any run's version 0."""
    return key.run == target.run or key == ORIGINAL


def _serves(member: Member, target: Key, limit: float, now: float) -> bool:
    if not member.able or (member.updating and not member.preparing) or not member.admitted or not member.intact:
        return False
    if member.key == target:
        return True
    return member.lagging_since is not None and now - member.lagging_since < limit
