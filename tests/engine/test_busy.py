"""The processor time of a coroutine's own steps."""

from __future__ import annotations

import asyncio
import time

import pytest

from shoal.engine.busy import Busy


def _burn(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


async def test_counts_own_steps_but_neither_waits_nor_others() -> None:
    async def other() -> None:
        _burn(0.05)

    async def work() -> str:
        _burn(0.01)
        await asyncio.create_task(other())
        await asyncio.sleep(0.05)
        _burn(0.01)
        return "done"

    busy = Busy(work())
    assert await busy == "done"
    assert 0.02 <= busy.seconds < 0.05


async def test_an_error_passes_through() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await Busy(work())


async def test_an_error_of_what_was_awaited_reaches_the_coroutine() -> None:
    async def failing() -> None:
        raise KeyError("gone")

    async def work() -> str:
        try:
            await asyncio.create_task(failing())
        except KeyError:
            return "handled"
        return "missed"

    assert await Busy(work()) == "handled"


async def test_a_cancellation_reaches_the_coroutine() -> None:
    tidied = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            tidied.set()

    async def run() -> None:
        await Busy(work())

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tidied.is_set()


async def test_a_time_limit_reaches_the_coroutine() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Busy(asyncio.sleep(60))
