"""Sends requests: sessions, credentials, retries, and errors decoded into their types."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import orjson

from shoal.kube.connection import REQUEST_CONNECTIONS, Connections
from shoal.kube.credentials import Credentials, CredentialsSource
from shoal.kube.errors import ApiError, UnavailableError, error_from_status
from shoal.kube.resources import Json
from shoal.kube.retry import NotSentError, RetryPolicy

Observer = Callable[[str, str, int, float], None]
"""Called after each request with verb, resource, HTTP status (0: none) and seconds until the answer began."""

Query = Mapping[str, str]
JSON_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class Call:
    """One request before it is sent. `safe`: doing it twice is the same as once."""

    verb: str
    method: str
    resource: str
    path: str
    query: Query
    body: bytes | None = None
    content_type: str = JSON_TYPE
    safe: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Transport:
    """Sends calls to one API server with the credentials of a source."""

    def __init__(self, source: CredentialsSource, *, timeout: float, retry: RetryPolicy) -> None:
        self._connections = Connections(source)
        self._timeout = aiohttp.ClientTimeout(total=timeout, connect=10.0)
        self._retry = retry
        # First come, first served. The connector's own limit is not: it gives a free connection to whoever asks next,
        # so that busy callers kept others waiting until their time was over.
        self._slots = asyncio.Semaphore(REQUEST_CONNECTIONS)
        self.observer: Observer | None = None
        self.fence: Callable[[str], None] | None = None

    async def close(self) -> None:
        """Close all connections."""
        await self._connections.close()

    async def json(self, call: Call) -> Json:
        """Send the call, with retries, and return the JSON object it answers."""
        return decode(call, await self.read(call))

    async def read(self, call: Call) -> bytes:
        """Send the call, with retries, and return the body it answers."""
        attempt = 1
        while True:
            try:
                async with self._slots, self.open(call, self._timeout, watch=False) as response:
                    try:
                        return await response.read()
                    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                        raise UnavailableError(f"{call}: {type(error).__name__}: {error}") from error
            except ApiError as error:
                delay = self._retry.delay(error, attempt, safe=call.safe)
                if delay is None:
                    raise
            attempt += 1
            await asyncio.sleep(delay)

    @asynccontextmanager
    async def open(
        self, call: Call, timeout: aiohttp.ClientTimeout, *, watch: bool
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send the call and give the answer if it is a success; a 401 is tried again once with newer credentials."""
        session, credentials = await self._connections.use(watch=watch)
        if self.fence is not None and call.method != "GET":
            self.fence(call.resource)
        started, status = time.perf_counter(), 0
        try:
            response = await self._send(call, session, credentials, timeout)
            if response.status == 401 and await self._connections.refused(credentials):
                response.release()
                session, credentials = await self._connections.use(watch=watch)
                response = await self._send(call, session, credentials, timeout)
            status = response.status
        finally:
            if self.observer is not None:
                self.observer(call.verb, call.resource, status, time.perf_counter() - started)
        # `async with` closes the connection when the body was not read to its end, which is how a watch is stopped.
        async with response:
            if status >= 400:
                raise await _refusal(call, response)
            yield response

    async def _send(
        self,
        call: Call,
        session: aiohttp.ClientSession,
        credentials: Credentials,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        try:
            return await session.request(
                call.method,
                credentials.server + call.path,
                params=call.query,
                data=call.body,
                headers={**credentials.headers(), "Content-Type": call.content_type},
                timeout=timeout,
                server_hostname=credentials.server_name,
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSentError(f"{call}: {error}") from error
        except (aiohttp.ClientError, TimeoutError, ConnectionError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not session.closed:
                raise
            # A session closed under us (credentials rotated) counts as a broken connection.
            raise UnavailableError(f"{call}: {type(error).__name__}: {error}") from error


def decode(call: Call, text: bytes) -> Json:
    """The JSON object in an answer; raises `UnavailableError` where there is none."""
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UnavailableError(f"{call}: the answer is not JSON: {text[:200]!r}") from error
    if not isinstance(body, dict):
        raise UnavailableError(f"{call}: the answer is not an object: {text[:200]!r}")
    return body


async def _refusal(call: Call, response: aiohttp.ClientResponse) -> ApiError:
    try:
        text = await response.read()
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        return UnavailableError(f"{call}: {error}", status=response.status)
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError:
        body = {"message": text.decode(errors="replace")[:500] or f"HTTP status {response.status}"}
    retry_after = response.headers.get("Retry-After", "")
    return error_from_status(
        response.status,
        body if isinstance(body, dict) else None,
        what=str(call),
        retry_after=float(retry_after) if retry_after.isdigit() else None,
    )
