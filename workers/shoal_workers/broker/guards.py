"""Calls to the members' guards."""

from __future__ import annotations

import aiohttp

from shoal.api.services.leases import (
    Grant,
    GrantRequest,
    LeaseRenewed,
    Outcome,
    Released,
    RenewRequest,
    Retired,
    RetireRequest,
)
from shoal_workers.service import ServiceClient, Token, open_session


class Guards:
    """One connection pool to all members. Every call raises ProblemError; `timeout` is in seconds."""

    def __init__(self, token: Token, timeout: float) -> None:
        self._token = token
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self._clients: dict[str, ServiceClient] = {}

    async def grant(self, url: str, request: GrantRequest) -> Grant:
        """Lease any free slot."""
        return await self._client(url).post("/guard/grant", request, Grant)

    async def renew(self, url: str, lease_id: str, ttl: float | None) -> LeaseRenewed:
        """Renew a lease."""
        path = f"/guard/leases/{lease_id}:renew"
        return await self._client(url).post(path, RenewRequest(ttl=ttl), LeaseRenewed)

    async def release(self, url: str, lease_id: str, outcome: Outcome) -> Released:
        """End a lease."""
        reply = await self._client(url).delete(f"/guard/leases/{lease_id}", params={"outcome": outcome.value})
        return reply.read(Released)

    async def retire(self, url: str, request: RetireRequest) -> Retired:
        """Retire slots."""
        return await self._client(url).post("/guard:retire", request, Retired)

    def forget(self, url: str) -> None:
        """The member is gone."""
        self._clients.pop(url, None)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _client(self, url: str) -> ServiceClient:
        client = self._clients.get(url)
        if client is None:
            if self._session is None:
                self._session = open_session()
            client = ServiceClient(url, token=self._token, timeout=self._timeout, retries=0, session=self._session)
            self._clients[url] = client
        return client
