"""Noticing that a caller has hung up, so that no tokens are generated for nobody."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.requests import Request

# Most calls are over by then, and cost no more than a timer.
GRACE_SECONDS = 0.5
# nginx's status for it; nobody reads it.
CLIENT_CLOSED_REQUEST = 499


class AbandonedError(Exception):
    """The caller has closed the connection."""


class Abandon:
    """Cancels the work inside the block once the caller hangs up; the block then raises AbandonedError.

    The request's body must have been read.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._left = False
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._work = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(GRACE_SECONDS, self._begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._left and isinstance(error, asyncio.CancelledError) and self._work is not None:
            self._work.uncancel()
            raise AbandonedError from None

    def _begin(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            continue
        self._left = True
        if self._work is not None:
            self._work.cancel()
