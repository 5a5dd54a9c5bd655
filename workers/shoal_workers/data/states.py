"""The life of a trajectory and of what carries it, as tables of allowed steps.

    pending -> assigned -> recorded -> grouped -> leased -> consumed
                                              \\-> dropped (reason)

An assignment holds the first three states, its group the others: a group moves as a whole.
"""

from enum import StrEnum


class AssignmentState(StrEnum):
    """One episode to run."""

    PENDING = "pending"
    ASSIGNED = "assigned"
    RECORDED = "recorded"
    CANCELLED = "cancelled"


class GroupState(StrEnum):
    """The trajectories of one task."""

    OPEN = "open"
    COMPLETE = "complete"
    LEASED = "leased"
    CONSUMED = "consumed"
    DROPPED = "dropped"
    MEASURED = "measured"


class DropReason(StrEnum):
    """Why a group was never trained on."""

    STALE = "stale"
    ZERO_VARIANCE = "zero_variance"
    FAULTS = "faults"
    UNFIT = "unfit_task"
    DAMAGED = "damaged"
    FINISHED = "finished"


class IllegalStepError(Exception):
    """A step that the life of the object does not know: a defect, never a peer's fault."""


_ASSIGNMENT_STEPS = {
    AssignmentState.PENDING: {AssignmentState.ASSIGNED, AssignmentState.CANCELLED},
    AssignmentState.ASSIGNED: {AssignmentState.PENDING, AssignmentState.RECORDED, AssignmentState.CANCELLED},
    AssignmentState.RECORDED: set[AssignmentState](),
    AssignmentState.CANCELLED: set[AssignmentState](),
}
_GROUP_STEPS = {
    GroupState.OPEN: {GroupState.COMPLETE, GroupState.DROPPED, GroupState.MEASURED},
    GroupState.COMPLETE: {GroupState.LEASED, GroupState.DROPPED},
    GroupState.LEASED: {GroupState.COMPLETE, GroupState.CONSUMED},
    GroupState.CONSUMED: set[GroupState](),
    GroupState.DROPPED: set[GroupState](),
    GroupState.MEASURED: set[GroupState](),
}


def check_assignment(before: AssignmentState, after: AssignmentState) -> None:
    """Raise `IllegalStepError` unless an assignment may go from one state to the other."""
    if after not in _ASSIGNMENT_STEPS[before]:
        raise IllegalStepError(f"an assignment cannot go from {before} to {after}")


def check_group(before: GroupState, after: GroupState) -> None:
    """Raise `IllegalStepError` unless a group may go from one state to the other."""
    if after not in _GROUP_STEPS[before]:
        raise IllegalStepError(f"a group cannot go from {before} to {after}")
