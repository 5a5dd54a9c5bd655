"""Sessions of a real gateway, as an agent opens, reads and deletes them."""

from __future__ import annotations

import asyncio

import pytest

from shoal.api.services.models import GenerateRequest, GenerateResult, SamplingParameters, SessionSettings
from shoal.api.services.trajectories import EpisodeOutcome
from shoal_workers.agent.harness import EpisodeFaultError
from shoal_workers.agent.session import opened
from shoal_workers.service import ProblemError, ServiceClient
from tests.gateway.fleets import Fleet, fleet, request

SETTINGS = SessionSettings(sampling=SamplingParameters(max_tokens=2))


async def sample(running: Fleet, session: str) -> GenerateResult:
    """A call in the session that asks for five tokens."""
    asked: GenerateRequest = request(5)
    return await running.client.post(f"/sessions/{session}/generate", asked, GenerateResult)


async def test_the_calls_of_a_session_are_what_it_was_opened_for() -> None:
    async with fleet("a") as running:
        async with opened(running.client, "s", SETTINGS) as session:
            assert session.base_url == f"{running.url}/sessions/s/v1"
            assert len((await sample(running, "s")).token_ids) == 2
            record = await session.record()
        assert (record.opened, record.calls, sum(record.segments[0].loss_mask)) == (True, 1, 2)
        assert len(running.gateway.sessions) == 0


@pytest.mark.parametrize("later_calls", [0, 1])
async def test_a_record_with_a_hole_is_no_record(later_calls: int) -> None:
    async with fleet("a") as running, opened(running.client, "s", SETTINGS) as session:
        await sample(running, "s")
        running.gateway.sessions.delete("s")
        for _ in range(later_calls):
            await sample(running, "s")
        with pytest.raises(EpisodeFaultError, match="the gateway lost the session's record") as caught:
            await session.record()
        assert caught.value.outcome is EpisodeOutcome.ENGINE_ERROR


@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError()])
async def test_a_session_is_deleted_whatever_ends_it(error: BaseException) -> None:
    async with fleet() as running:

        async def fail() -> None:
            async with opened(running.client, "s", SETTINGS):
                assert len(running.gateway.sessions) == 1
                raise error

        with pytest.raises(type(error)) as caught:
            await fail()
        assert caught.value is error
        assert len(running.gateway.sessions) == 0


async def test_a_gateway_that_is_gone_hides_no_error() -> None:
    async with fleet() as running, ServiceClient(running.url, token="secret", retries=0) as client:

        async def fail() -> None:
            async with opened(client, "s", SETTINGS):
                await running.stack.aclose()
                raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            await fail()


async def test_a_session_that_the_gateway_does_not_open() -> None:
    async with fleet() as running, ServiceClient(running.url, token="wrong", retries=0) as client:
        with pytest.raises(ProblemError, match="unauthorized"):
            await opened(client, "s", SETTINGS).__aenter__()
