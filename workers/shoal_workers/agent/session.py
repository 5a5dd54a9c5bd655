"""An episode's session at the gateway, for programs that make their model calls themselves."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shoal.api.services.models import SessionRecord, SessionSettings
from shoal.api.services.trajectories import EpisodeOutcome
from shoal_workers.agent.harness import EpisodeFaultError
from shoal_workers.agent.patience import patiently
from shoal_workers.service import ProblemError, ServiceClient

logger = logging.getLogger(__name__)

DELETE_SECONDS = 5.0
"""An episode that ends waits no longer than this: the gateway forgets sessions that nobody uses by itself."""


class Session:
    """A session that is open. `base_url` is the OpenAI address of the calls in it."""

    def __init__(self, client: ServiceClient, name: str) -> None:
        self._client = client
        self._path = f"/sessions/{name}"

    @property
    def base_url(self) -> str:
        """Where an OpenAI client finds the model."""
        return f"{self._client.base_url}{self._path}/v1"

    async def record(self) -> SessionRecord:
        """All calls of the session. Raises EpisodeFaultError when the gateway has lost some of them, ProblemError when
        it is away for long.
        """
        try:
            record = await patiently(lambda: self._client.get(self._path, SessionRecord))
        except ProblemError as error:
            if error.name != "unknown-session":
                raise
            raise _lost() from None
        if not record.opened:
            # A gateway that started again meanwhile has the later calls only, sampled with settings of the program.
            raise _lost()
        return record


@asynccontextmanager
async def opened(client: ServiceClient, name: str, settings: SessionSettings) -> AsyncIterator[Session]:
    """A session whose calls are sampled with `settings`; deleted at the block's end, however it ends.

    Raises ProblemError when the gateway does not open it.
    """
    session = Session(client, name)
    path = f"/sessions/{name}"
    try:
        await patiently(lambda: client.put(path, settings))
        yield session
    finally:
        await asyncio.shield(_delete(client, path))


async def _delete(client: ServiceClient, path: str) -> None:
    """Raises nothing: what the episode came to is what counts."""
    try:
        await client.delete(path, timeout=DELETE_SECONDS, retries=0)
    except Exception as error:
        logger.warning("session not deleted, the gateway will forget it", extra={"path": path, "detail": str(error)})


def _lost() -> EpisodeFaultError:
    return EpisodeFaultError(EpisodeOutcome.ENGINE_ERROR, "the gateway lost the session's record")
