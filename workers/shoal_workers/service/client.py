"""The client of every Shoal service: keep-alive, bearer token, retries and typed problems."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import orjson
from pydantic import BaseModel, ValidationError

from shoal_workers.service.credentials import Token, as_credential, authorized
from shoal_workers.service.problems import ProblemError, problem_from_body
from shoal_workers.telemetry.spans import add_context

ModelT = TypeVar("ModelT", bound=BaseModel)

# Shorter than the servers' 75 s, so that no request is sent on a connection its server is closing.
KEEP_ALIVE_SECONDS = 30.0
RETRY_BASE_SECONDS = 0.1
RETRY_CAP_SECONDS = 3.0
_IDEMPOTENT = frozenset({"GET", "PUT", "DELETE", "HEAD"})


@dataclass(frozen=True, slots=True)
class Reply:
    """A successful answer: HTTP status, body, and the body's media type without parameters."""

    status: int
    body: bytes
    media_type: str = ""

    def read(self, model: type[ModelT]) -> ModelT:
        """The body as a message; raises pydantic.ValidationError for a body that does not fit."""
        return model.model_validate_json(self.body)

    def json(self) -> Any:
        """The body as plain JSON, None when empty."""
        return orjson.loads(self.body) if self.body else None


class ServiceClient:
    """Calls one service. Use as an async context manager, or call `close`.

    An answer of 400 or above raises ProblemError; a service that cannot be reached raises ProblemError `unreachable`
    (status 503), one that does not answer in time `timeout` (status 504). Connection failures before the request was
    sent are retried, and a refused `token` where there is another one; a lost answer and 503 are retried only where
    the call is idempotent. `timeout` is in seconds. `session` (see `open_session`) lets many clients share
    connections; it is not closed here.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: Token = None,
        timeout: float = 30.0,
        retries: int = 3,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._credential = as_credential(token)
        self._timeout = timeout
        self._retries = retries
        self._session = session
        self._shared = session is not None

    @property
    def token(self) -> str:
        """The token that is shown now, for clients of others' making; "" for none."""
        return self._credential.tokens[0] if self._credential else ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None and not self._shared:
            await self._session.close()
            self._session = None

    async def call(
        self,
        method: str,
        path: str,
        body: BaseModel | Mapping[str, Any] | list[Any] | bytes | None = None,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        idempotent: bool | None = None,
    ) -> Reply:
        """One call, with retries; `idempotent`: may it be repeated after a lost answer (default: by method).

        `headers` go beside the client's own, such as `Accept`, or `Content-Type` where `body` is bytes and no JSON.
        """
        repeatable = method in _IDEMPOTENT if idempotent is None else idempotent
        data = _encode(body)
        limit = self._retries if retries is None else retries
        for attempt in range(limit + 1):
            try:
                return await authorized(
                    self._credential,
                    partial(self._once, method, path, data, params, timeout or self._timeout, headers or {}),
                )
            except _UnsentError as error:
                failure: ProblemError = error
            except ProblemError as error:
                if not repeatable or error.status != 503:
                    raise
                failure = error
            if attempt == limit:
                break
            await asyncio.sleep(backoff(attempt))
        raise failure

    async def get(self, path: str, model: type[ModelT], **options: Any) -> ModelT:
        """GET, read as `model`; an answer that does not fit raises ProblemError `bad-answer` (status 502)."""
        return self._read(await self.call("GET", path, **options), path, model)

    async def post(
        self, path: str, body: BaseModel | Mapping[str, Any] | None, model: type[ModelT], **options: Any
    ) -> ModelT:
        """POST, read as `model`; an answer that does not fit raises ProblemError `bad-answer` (status 502)."""
        return self._read(await self.call("POST", path, body, **options), path, model)

    def _read(self, reply: Reply, path: str, model: type[ModelT]) -> ModelT:
        try:
            return reply.read(model)
        except ValidationError as error:
            detail = f"{self.base_url}{path}: no {model.__name__}: {error.errors(include_url=False)[0]['msg']}"
            raise ProblemError("bad-answer", detail, status=502) from None

    async def put(self, path: str, body: BaseModel | Mapping[str, Any] | None, **options: Any) -> Reply:
        """PUT."""
        return await self.call("PUT", path, body, **options)

    async def delete(self, path: str, **options: Any) -> Reply:
        """DELETE."""
        return await self.call("DELETE", path, **options)

    async def _once(
        self,
        method: str,
        path: str,
        data: bytes | None,
        params: Mapping[str, str] | None,
        timeout: float,
        extra: Mapping[str, str],
        headers: dict[str, str],
    ) -> Reply:
        session = self._opened()
        headers = {**headers, **extra}
        add_context(headers)
        try:
            async with session.request(
                method,
                self.base_url + path,
                data=data,
                params=params,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout),
            ) as response:
                body = await response.read()
                if response.status >= 400:
                    raise problem_from_body(body, response.status)
                return Reply(response.status, body, response.content_type)
        except aiohttp.ClientConnectorError as error:
            raise _UnsentError("unreachable", f"{self.base_url}: {error}", status=503) from None
        except TimeoutError:
            detail = f"{method} {self.base_url}{path}: no answer within {timeout:g} s"
            raise ProblemError("timeout", detail, status=504) from None
        except (aiohttp.ClientError, OSError) as error:
            detail = f"{method} {self.base_url}{path}: {type(error).__name__}: {error}"
            raise ProblemError("unreachable", detail, status=503) from None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = open_session()
        return self._session


def open_session() -> aiohttp.ClientSession:
    """A session as every Shoal client uses it: keep-alive, no limit on connections, no cookies."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
        headers={"Content-Type": "application/json"},
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent",),
    )


class _UnsentError(ProblemError):
    """No connection was made, so the request certainly was not processed."""


def backoff(attempt: int, base: float = RETRY_BASE_SECONDS, cap: float = RETRY_CAP_SECONDS) -> float:
    """Seconds to wait after the `attempt`-th failure (from 0): full jitter over an exponential, never above `cap`."""
    return random.uniform(0.5, 1.0) * min(cap, base * float(2 ** min(attempt, 30)))


def _encode(body: BaseModel | Mapping[str, Any] | list[Any] | bytes | None) -> bytes | None:
    if body is None or isinstance(body, bytes):
        return body
    if isinstance(body, BaseModel):
        return body.__pydantic_serializer__.to_json(body)
    return orjson.dumps(body)
