"""An engine that is given up: what waits for it is told so, whatever else is heard of it in the same moment."""

from __future__ import annotations

import asyncio

import pytest

from shoal.api.services.models import EnginePhase, EngineReport, EngineStatus
from shoal_workers.gateway import rollout
from shoal_workers.gateway.known import Known
from shoal_workers.service import ProblemError, ServiceClient


def known() -> Known:
    status = EngineStatus(name="one", phase=EnginePhase.READY)
    report = EngineReport(name="one", uid="u", url="http://127.0.0.1:1", status=status)
    member = rollout.Member("one", rollout.ORIGINAL)
    return Known(report, 0.0, member, ServiceClient(report.url), f"{report.url}/generate")


async def waits_for(engine: Known) -> asyncio.Task[None]:
    """A call that has begun to wait for the engine's answer."""

    async def call() -> None:
        with engine.watched():
            await asyncio.Event().wait()

    waiting = asyncio.create_task(call())
    await asyncio.sleep(0)
    return waiting


async def test_a_report_right_after_the_loss_takes_nothing_back() -> None:
    engine = known()
    waiting = await waits_for(engine)
    engine.lose()
    engine.lost = False  # its report comes before the cancelled call runs
    with pytest.raises(ProblemError) as caught:
        await waiting
    assert caught.value.name == "engine-lost"
    assert not engine.given_up


async def test_a_caller_that_goes_is_cancelled_and_nothing_else() -> None:
    engine = known()
    waiting = await waits_for(engine)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
