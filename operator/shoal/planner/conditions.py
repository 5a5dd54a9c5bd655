"""metav1 conditions: their transition times and the events that tell of a transition."""

from collections.abc import Iterable
from dataclasses import dataclass

from shoal.api.base import Condition
from shoal.planner.actions import Event
from shoal.planner.times import timestamp


@dataclass(frozen=True)
class Verdict:
    """What a pass holds true of one condition type. `status` None means Unknown."""

    type: str
    status: bool | None
    reason: str
    message: str = ""


def merge(old: Iterable[Condition], verdicts: Iterable[Verdict], generation: int, now: float) -> list[Condition]:
    """The conditions after this pass: a transition time moves only when the status does, as metav1 asks."""
    before = {condition.type: condition for condition in old}
    merged = dict(before)
    for verdict in verdicts:
        status = {True: "True", False: "False", None: "Unknown"}[verdict.status]
        previous = before.get(verdict.type)
        moved = previous is None or previous.status != status
        merged[verdict.type] = Condition(
            type=verdict.type,
            status=status,
            reason=verdict.reason,
            message=verdict.message[:MESSAGE_LIMIT],
            observed_generation=generation,
            last_transition_time=timestamp(now) if moved else previous.last_transition_time,  # type: ignore[union-attr]
        )
    return list(merged.values())


def transitions(old: Iterable[Condition], new: Iterable[Condition], warnings: frozenset[str]) -> list[Event]:
    """One event for each condition whose status or reason changed.

    Args:
        old: conditions as stored.
        new: conditions after this pass.
        warnings: condition types whose truth is bad news (Degraded, Failed).
    """
    before = {condition.type: (condition.status, condition.reason) for condition in old}
    events = []
    for condition in new:
        if before.get(condition.type) == (condition.status, condition.reason):
            continue
        if condition.type not in before and condition.status != "True":
            continue  # a condition that starts out false tells nobody anything
        bad = condition.type in warnings and condition.status == "True"
        events.append(
            Event(
                "Warning" if bad else "Normal",
                condition.reason,
                condition.message or f"{condition.type} is {condition.status}",
            )
        )
    return events


def is_true(conditions: Iterable[Condition], type_: str) -> bool:
    """Whether the condition of this type is present and True."""
    return any(condition.type == type_ and condition.status == "True" for condition in conditions)


MESSAGE_LIMIT = 1024
"""metav1.Condition allows 32 KiB; a status is read by people and stored with every write."""
