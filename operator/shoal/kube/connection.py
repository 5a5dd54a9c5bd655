"""The HTTP sessions of a client: one for requests, one for watches, renewed when the credentials change."""

from __future__ import annotations

import asyncio

import aiohttp

from shoal.kube.credentials import Credentials, CredentialsError, CredentialsSource
from shoal.kube.errors import UnauthorizedError

REQUEST_CONNECTIONS = 64
"""Parallel requests per client. Beyond this the API server's fair queuing, not the client, is the limit."""


class Connections:
    """Holds the sessions that fit the current credentials.

    Watches have connections of their own, because a long answer must neither wait for nor hold up a request.
    """

    def __init__(self, source: CredentialsSource) -> None:
        self._source = source
        self._transport: Credentials | None = None
        self._requests: aiohttp.ClientSession | None = None
        self._watches: aiohttp.ClientSession | None = None
        self._lock = asyncio.Lock()

    async def use(self, *, watch: bool) -> tuple[aiohttp.ClientSession, Credentials]:
        """Return the session for a request or a watch and the credentials whose headers go with it.

        Raises `UnauthorizedError` when there are no credentials: they may come back, as a server may.
        """
        try:
            credentials = await self._source.current()
        except CredentialsError as error:
            raise UnauthorizedError(str(error), status=401) from error
        transport = credentials.transport()
        if self._requests is None or self._watches is None or transport != self._transport:
            async with self._lock:
                if self._requests is None or self._watches is None or transport != self._transport:
                    await self._open(transport)
        session = self._watches if watch else self._requests
        assert session is not None
        return session, credentials

    async def refused(self, credentials: Credentials) -> bool:
        """Tell the source of a 401; return whether other credentials are there to try."""
        try:
            return await self._source.refresh(credentials) != credentials
        except CredentialsError:
            return False

    async def close(self) -> None:
        """Close all connections; running requests fail."""
        for session in (self._requests, self._watches):
            if session is not None:
                await session.close()
        self._requests = self._watches = self._transport = None

    async def _open(self, transport: Credentials) -> None:
        await self.close()
        tls = transport.ssl_context()
        self._requests = _session(transport, aiohttp.TCPConnector(ssl=tls, limit=0))
        self._watches = _session(transport, aiohttp.TCPConnector(ssl=tls, limit=0))
        self._transport = transport


def _session(transport: Credentials, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        proxy=transport.proxy_url,
        headers={"User-Agent": "shoal-operator", "Accept": "application/json"},
    )
