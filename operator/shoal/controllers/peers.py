"""The two calls that the operator makes to the data plane: retire a member, drain an engine.

Both go to the service that owns the decision (broker, gateway), so that a lease or a request that arrives at the same
moment wins.
"""

import asyncio
import logging

import aiohttp

from shoal.api.addresses import http_url
from shoal.api.labels import PORTS, Role

log = logging.getLogger(__name__)

CALL_SECONDS = 5.0
"""A dead service must not hold up a worker; the pass comes again anyway."""


class Peers:
    """Calls to brokers and gateways by pod address, while `run` runs."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def run(self) -> None:
        """Hold the connections open until cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALL_SECONDS)) as session:
            self._session = session
            try:
                await asyncio.Event().wait()
            finally:
                self._session = None

    async def retire_member(self, broker_ip: str, tokens: tuple[str, ...], member: str) -> bool:
        """Whether all slots of the member are out of service; False while one is leased or the broker cannot say."""
        url = http_url(broker_ip, PORTS[Role.BROKER], f"/members/{member}:retire")
        # Draining: no lease is broken, and none is begun; a busy member would otherwise be leased again for ever.
        answer = await self._post(url, tokens, {"slots": "all", "drain": True})
        return answer is not None and not answer.get("leased")

    async def drain_engine(self, gateway_ip: str, tokens: tuple[str, ...], engine: str) -> bool:
        """Whether the engine is out of routing and empty; False while it still works or the gateway cannot say."""
        url = http_url(gateway_ip, PORTS[Role.GATEWAY], f"/engines/{engine}:drain")
        answer = await self._post(url, tokens, {})
        return answer is not None and not answer.get("running")

    async def _post(self, url: str, tokens: tuple[str, ...], body: dict[str, object]) -> dict[str, object] | None:
        """The answer to an accepted call, None for a refusal or no answer.

        404 counts as accepted: the service does not know the pod (any more), so nothing can be lost by deleting it.
        A service whose node has not brought it the newest token yet takes the one before.
        """
        if self._session is None:
            return None
        try:
            for token in tokens:
                headers = {"Authorization": f"Bearer {token}"}
                async with self._session.post(url, json=body, headers=headers) as response:
                    if response.status == 404:
                        return {}
                    if response.status != 401:
                        return dict(await response.json()) if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            log.debug("%s: %s", url, error)
        return None
