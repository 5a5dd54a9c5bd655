"""What keeps an episode from becoming a trajectory."""

from shoal.api.services.trajectories import EpisodeOutcome


class EpisodeFaultError(Exception):
    """The episode says nothing of the policy: environment, grader, engine or agent failed."""

    def __init__(self, outcome: EpisodeOutcome, detail: str) -> None:
        super().__init__(f"{outcome}: {detail}")
        self.outcome = outcome
        self.detail = detail


class ProgramError(RuntimeError):
    """A program drove its environment wrongly: a step after the end or before the reset, or a second reset.

    The environment did not fail, so nothing is held against it. A program may catch this; one that lets it pass ends
    its episode, with what it reached if the environment had ended it before.
    """
