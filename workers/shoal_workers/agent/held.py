"""Playing for as long as the lease is held: an environment that is gone is not worth another model call."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from shoal.api.services.trajectories import EpisodeOutcome
from shoal_workers.agent.harness import EpisodeFaultError
from shoal_workers.broker.client import LeaseKeeper

T = TypeVar("T")


class LeaseLostError(EpisodeFaultError):
    """The environment was taken away in the middle of the episode."""

    def __init__(self, why: str) -> None:
        super().__init__(EpisodeOutcome.ENVIRONMENT_ERROR, f"lease lost: {why}")


async def while_held(keeper: LeaseKeeper, play: Coroutine[Any, Any, T]) -> T:
    """The result of `play`, which is cancelled when the lease is lost: raises LeaseLostError then.

    A play that has ended counts, whatever becomes of its lease at the same moment.
    """
    # In a task of its own, so that cancelling it can never be taken for, or swallow, a cancellation from outside.
    playing = asyncio.ensure_future(play)
    lost = asyncio.ensure_future(keeper.lost.wait())
    try:
        await asyncio.wait({playing, lost}, return_when=asyncio.FIRST_COMPLETED)
        if playing.cancelled():
            # Not from outside, since then the wait would not have ended: as an error it is counted and not only redone.
            raise EpisodeFaultError(EpisodeOutcome.AGENT_ERROR, "the harness cancelled its own episode")
        if playing.done():
            return playing.result()
        raise LeaseLostError(keeper.why)
    finally:
        for task in (playing, lost):
            task.cancel()
        await asyncio.gather(playing, lost, return_exceptions=True)
