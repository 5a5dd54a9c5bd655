"""Whether the caller of a long poll is still there.

An agent or trainer that ends in the middle of a poll must not be given what becomes free a moment later, such as the
very episodes that it has just handed back: nobody would work on them until their lease runs out.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from starlette.requests import Request


class Caller:
    """Watches the connection of a request, whose body must have been read, while the block runs.

    `wake` is called when the caller has hung up; `stopping` counts as hanging up.
    """

    def __init__(self, request: Request, stopping: asyncio.Event, wake: Callable[[], None]) -> None:
        self._receive: Callable[[], Awaitable[object]] = request.receive
        self._stopping = stopping
        self._wake = wake
        self._gone = False

    @property
    def left(self) -> bool:
        """Whether an answer would reach nobody, or the process stops."""
        return self._gone or self._stopping.is_set()

    async def __aenter__(self) -> Self:
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watcher.cancel()

    async def _watch(self) -> None:
        await self._receive()
        self._gone = True
        self._wake()
