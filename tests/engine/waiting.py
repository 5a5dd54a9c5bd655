"""Waiting for a condition with a generous deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(true: Callable[[], bool], seconds: float = 90.0) -> None:
    """Return when `true()` is; fail after `seconds`."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110  # the conditions have no event of their own
            await asyncio.sleep(0.01)
