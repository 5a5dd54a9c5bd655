"""Whether a queue lets a job run, as plans see it; which queue it is makes no difference to them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from shoal.api.v1alpha1.jobqueue import AdmissionStatus
from shoal.planner.actions import Action
from shoal.planner.conditions import Verdict

RETRY_SECONDS = 5.0
"""When to look again for something that is missing: no event tells that it has come."""


@dataclass(frozen=True)
class QueueDecision:
    """Whether the job may run, why not, and what to do about the queue's own objects.

    Args:
        runs: whether the queue lets the job run; always, without a queue.
        verdict: the job's Admitted condition; None for a job that does not queue.
        admission: what its pods are given while it runs.
        actions: effects on the queue's own objects.
    """

    runs: bool = True
    verdict: Verdict | None = None
    admission: AdmissionStatus | None = None
    actions: Sequence[Action] = field(default_factory=tuple)
    retry: bool = False
    """Whether to look again soon, because no event will tell that the reason has gone."""

    @property
    def managed(self) -> bool:
        """Whether the job is in a queue."""
        return self.verdict is not None


NO_QUEUE = QueueDecision()
