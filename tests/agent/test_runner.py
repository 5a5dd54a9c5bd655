"""Agents that end, agents whose assignments are lost, and services that go away."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from shoal.api.services.trajectories import AgentStatus, ClaimRequest
from shoal_workers.service import ServiceClient
from tests.agent.stage import RIGHT, stage

ONE_GROUP: dict[str, Any] = {"max_staleness": 0, "batch_groups": 1}


async def test_an_agent_that_ends_hands_its_episodes_back_and_another_goes_on(tmp_path: Path) -> None:
    async with stage(tmp_path, **ONE_GROUP) as scene:
        gateway = scene.gateway

        def second_turn(prompt: list[int]) -> list[int]:
            if len(gateway.requests) >= 2:
                gateway.gate.clear()
            return RIGHT

        gateway.answer = second_turn
        async with scene.agent("first"):
            await scene.until(lambda: len(gateway.requests) >= 4)
        await scene.all_released()
        assert scene.manager is not None
        assert (await scene.manager.status()).trajectories == {"pending": 2}
        begun = len(gateway.requests)
        gateway.answer, gateway.version = lambda prompt: RIGHT, 1
        gateway.gate.set()
        async with scene.agent("second"):
            trajectories = await scene.trajectories()
        # One turn was played by the first agent, and is not sampled again.
        assert len(gateway.requests) - begun == 2 * 2
        for each in trajectories:
            assert (each.turns, each.reward) == (3, 1.0)
            assert [span.version for span in each.segments[0].versions] == [0, 1, 1]
            assert sum(each.segments[0].loss_mask) == 6


async def test_an_agent_that_has_not_begun_hands_back_at_once(tmp_path: Path) -> None:
    async with stage(tmp_path, slots=1, **ONE_GROUP) as scene:
        scene.gateway.gate.clear()
        async with scene.agent():
            await scene.until(lambda: scene.gateway.requests)
        assert scene.manager is not None
        assert (await scene.manager.status()).trajectories == {"pending": 2}
        scene.gateway.gate.set()


async def test_an_episode_whose_assignment_is_another_agents_is_stopped(tmp_path: Path) -> None:
    async with stage(tmp_path, **ONE_GROUP, assignment_seconds=6.0) as scene:
        scene.gateway.gate.clear()
        async with scene.agent() as url:
            await scene.until(lambda: len(scene.gateway.requests) >= 2)
            assert scene.manager is not None
            scene.manager.store.run_now(
                lambda: scene.manager.store.connection.execute("UPDATE assignments SET expires_at = 0")  # type: ignore[union-attr]
            )
            claimed = (await scene.manager.claim(ClaimRequest(agent="other", count=2))).assignments
            assert [each.attempt for each in claimed] == [2, 2]
            async with ServiceClient(url) as client:
                for _ in range(500):
                    if (await client.get("/status", AgentStatus)).running == 0:
                        break
                    await asyncio.sleep(0.02)
                assert (await client.get("/status", AgentStatus)).running == 0
            for each in claimed:
                await scene.manager.renew(each.id, each.attempt)
        scene.gateway.gate.set()


async def test_long_episodes_are_renewed(tmp_path: Path) -> None:
    async with stage(tmp_path, **ONE_GROUP, assignment_seconds=3.0) as scene:
        scene.gateway.gate.clear()
        async with scene.agent():
            await scene.until(lambda: len(scene.gateway.requests) >= 2)
            await asyncio.sleep(4.5)
            assert scene.manager is not None
            assert (await scene.manager.claim(ClaimRequest(agent="other", count=2))).assignments == []
            scene.gateway.gate.set()
            assert len(await scene.trajectories()) == 2


async def test_a_data_manager_that_is_away_costs_no_episode(tmp_path: Path) -> None:
    async with stage(tmp_path, **ONE_GROUP) as scene:
        scene.gateway.gate.clear()
        async with scene.agent():
            await scene.until(lambda: len(scene.gateway.requests) >= 2)
            assert scene.data is not None
            await scene.data.aclose()
            scene.gateway.gate.set()
            await scene.until(lambda: len(scene.gateway.requests) == 6)
            await asyncio.sleep(0.5)
            await scene.open_data()
            assert len(await scene.trajectories()) == 2
        assert len(scene.gateway.requests) == 6
        assert await scene.faults("agent_error") == 0
