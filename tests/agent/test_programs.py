"""The OpenAI harness: programs of all kinds, the session that they sample in, and what their failures become."""

from __future__ import annotations

import asyncio
import functools
import json
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from shoal.api.services.models import SamplingParameters
from shoal.api.services.trajectories import EpisodeOutcome
from shoal.api.services.tree import full_tokens
from shoal_workers.agent.openai import _is_async
from shoal_workers.service import ServiceClient
from tests.agent.stage import RIGHT, Stage, stage

ONE_GROUP: dict[str, Any] = {"max_staleness": 0, "batch_groups": 1}
PLAYED: dict[str, Any] = {}
"""What programs leave for the test that runs them."""


def program(name: str) -> dict[str, Any]:
    """The settings of an agent that runs a function of this module."""
    return {"harness": {"type": "OpenAI", "module": f"tests.agent.test_programs:{name}"}}


async def solve(task: dict[str, Any], environment: Any, endpoint: Any) -> None:
    """An agent program that knows nothing of Shoal but a base URL."""
    result = await environment.reset()
    if task.get("clumsy"):
        raise ValueError("fell over")
    if task.get("leaves"):
        sys.exit(3)
    async with ServiceClient(endpoint.base_url) as client:
        while not result.done:
            body = {"model": endpoint.model, "messages": [{"role": "user", "content": result.observation.text}]}
            answer = (await client.call("POST", "/chat/completions", body)).json()
            result = await environment.step(answer["choices"][0]["message"]["content"])


def ask(endpoint: Any, text: str) -> str:
    """A model call that blocks its thread."""
    body = json.dumps({"model": endpoint.model, "messages": [{"role": "user", "content": text}]}).encode()
    with urllib.request.urlopen(f"{endpoint.base_url}/chat/completions", data=body, timeout=30) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


def solve_plainly(task: dict[str, Any], environment: Any, endpoint: Any) -> None:
    """The same by somebody who does not await."""
    result = environment.reset()
    if task.get("clumsy"):
        raise ValueError("fell over")
    if task.get("leaves"):
        sys.exit(3)
    while not result.done:
        result = environment.step(ask(endpoint, result.observation.text))


class Solver:
    """An object that is called as an async function is."""

    async def __call__(self, task: dict[str, Any], environment: Any, endpoint: Any) -> None:
        await solve(task, environment, endpoint)


@functools.wraps(solve)
def solve_wrapped(*arguments: Any) -> Any:
    """A decorated async function."""
    return solve(*arguments)


solver = Solver()
solve_partly = functools.partial(solve)


@pytest.mark.parametrize("name", ["solve", "solve_plainly", "solver", "solve_wrapped", "solve_partly"])
async def test_any_program_is_traced_by_its_base_url(tmp_path: Path, name: str) -> None:
    async with stage(tmp_path, **ONE_GROUP) as scene, scene.agent(**program(name)):
        trajectory = (await scene.trajectories())[0]
        assert (trajectory.reward, trajectory.turns, trajectory.outcome) == (1.0, 3, EpisodeOutcome.OK)
        segments = trajectory.segments
        assert [full_tokens(segments, index) for index in range(len(segments))] == [[1, 2, *RIGHT]] * 3
        assert [segment.token_ids for segment in segments] == [[1, 2, *RIGHT], RIGHT, RIGHT], "a prompt stands once"
        await scene.until(lambda: not len(scene.gateway.sessions))
        await scene.all_released()


def test_which_functions_are_called_with_an_environment_to_await() -> None:
    assert all(_is_async(each) for each in (solve, solver, solve_wrapped, solve_partly))
    assert not any(_is_async(each) for each in (solve_plainly, lambda *_: None, functools.partial(solve_plainly)))


async def solve_configured(task: dict[str, Any], environment: Any, endpoint: Any) -> None:
    """Leaves its configuration."""
    PLAYED["config"] = dict(endpoint.config)
    await solve(task, environment, endpoint)


async def test_a_program_finds_its_own_configuration(tmp_path: Path) -> None:
    settings = program("solve_configured")
    settings["harness"]["config"] = {"style": "terse"}
    async with stage(tmp_path, **ONE_GROUP) as scene, scene.agent(**settings):
        await scene.trajectories()
    assert PLAYED.pop("config") == {"style": "terse"}


async def test_the_job_and_not_the_program_says_how_to_sample(tmp_path: Path) -> None:
    evaluation = {"episodes": 2, "temperature": 0.5}
    settings = {**program("solve"), "run": "lake-1", "max_tokens_per_turn": 3, "top_p": 0.9}
    async with stage(tmp_path, **ONE_GROUP, evaluation=evaluation) as scene, scene.agent(**settings):
        await scene.trajectories()
        seen = {(each.sampling, each.min_version, each.run) for each in scene.gateway.requests}
    train = SamplingParameters(max_tokens=3, temperature=1.0, top_p=0.9)
    evaluated = SamplingParameters(max_tokens=3, temperature=0.5, top_p=0.9)
    assert seen == {(train, None, "lake-1"), (evaluated, 0, "lake-1")}


@pytest.mark.parametrize("name", ["solve", "solve_plainly"])
@pytest.mark.parametrize(
    ("task", "outcome"),
    [({"break_at": 1}, "environment_error"), ({"clumsy": True}, "agent_error"), ({"leaves": True}, "agent_error")],
)
async def test_a_programs_failures_have_their_names(
    tmp_path: Path, name: str, task: dict[str, Any], outcome: str
) -> None:
    async with stage(tmp_path, **ONE_GROUP, tasks={"inline": [task]}) as scene:
        async with scene.agent(**program(name)):
            await scene.fault(outcome)
        assert len(scene.gateway.sessions) == 0
        assert set(await outcomes(scene)) == {outcome}


async def solve_hiding(task: dict[str, Any], environment: Any, endpoint: Any) -> None:
    """Believes that a broken environment is the end of the episode."""
    result = await environment.reset()
    try:
        await environment.step("right")
    except Exception:
        if task.get("renames"):
            raise ValueError("lost my way") from None
    async with ServiceClient(endpoint.base_url) as client:
        body = {"messages": [{"role": "user", "content": result.observation.text}]}
        await client.call("POST", "/chat/completions", body)


@pytest.mark.parametrize("task", [{"break_at": 1}, {"break_at": 1, "renames": True}])
async def test_no_program_can_hide_that_its_environment_failed(tmp_path: Path, task: dict[str, Any]) -> None:
    async with stage(tmp_path, **ONE_GROUP, tasks={"inline": [task]}) as scene:
        async with scene.agent(**program("solve_hiding")):
            await scene.fault("environment_error")
        assert set(await outcomes(scene)) == {"environment_error"}


async def solve_alone(task: dict[str, Any], environment: Any, endpoint: Any) -> None:
    """Needs no model."""
    result = await environment.reset()
    while not result.done:
        result = await environment.step("right")


async def test_an_episode_without_a_model_call_says_nothing_of_the_policy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage(tmp_path, **ONE_GROUP) as scene:
        async with scene.agent(**program("solve_alone")):
            await scene.fault("agent_error")
        assert scene.manager is not None
        assert (await scene.manager.report()).proof.recorded == 0
    assert "the program made no model call" in details(caplog)


def solve_late(task: dict[str, Any], environment: Any, endpoint: Any) -> Any:
    """A plain function whose work has not begun when it returns."""
    return solve(task, environment, endpoint)


async def test_a_plain_function_that_must_be_awaited_is_told_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage(tmp_path, **ONE_GROUP) as scene, scene.agent(**program("solve_late")):
        await scene.fault("agent_error")
    assert "make it an async function" in details(caplog)


async def solve_across_a_restart(task: dict[str, Any], environment: Any, endpoint: Any) -> None:
    """The gateway forgets, once, and goes on."""
    forget = PLAYED.pop("forget", None)
    if forget is not None:
        forget(endpoint.base_url.split("/")[-2])
        if PLAYED["at"] == "end":
            return
    await solve(task, environment, endpoint)


@pytest.mark.parametrize("at", ["end", "begin"])
async def test_a_record_that_the_gateway_lost_is_the_engines_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, at: str
) -> None:
    async with stage(tmp_path, **ONE_GROUP) as scene:
        PLAYED.update(forget=scene.gateway.sessions.delete, at=at)
        async with scene.agent(**program("solve_across_a_restart")):
            await scene.fault("engine_error")
            assert [each.reward for each in await scene.trajectories()] == [1.0, 1.0]
    assert "the gateway lost the session's record" in details(caplog)


async def test_an_interrupted_program_leaves_no_session(tmp_path: Path) -> None:
    async with stage(tmp_path, **ONE_GROUP) as scene:
        scene.gateway.gate.clear()
        async with scene.agent(**program("solve")):
            await scene.until(lambda: len(scene.gateway.requests) >= 2)
            assert len(scene.gateway.sessions) == 2
        assert len(scene.gateway.sessions) == 0
        await scene.all_released()
        scene.gateway.gate.set()


def solve_stubbornly(task: dict[str, Any], environment: Any, endpoint: Any) -> None:
    """Lets no error end it."""
    PLAYED["thread"] = threading.current_thread()
    environment.reset()
    PLAYED["steps"] = 0
    while True:
        try:
            environment.step("left")
            PLAYED["steps"] += 1
        except Exception:
            PLAYED["caught"] = True
        time.sleep(0.01)


async def test_a_thread_whose_episode_is_over_ends_at_its_next_step(tmp_path: Path) -> None:
    PLAYED.clear()
    async with stage(tmp_path, **ONE_GROUP) as scene:
        async with scene.agent(**program("solve_stubbornly"), concurrency=1):
            await scene.until(lambda: PLAYED.get("steps", 0) > 3)
        await asyncio.to_thread(PLAYED["thread"].join, 10)
        assert not PLAYED["thread"].is_alive()
        assert "caught" not in PLAYED
        await scene.all_released()


def solve_slowly(task: dict[str, Any], environment: Any, endpoint: Any) -> None:
    """Meets the others in the middle."""
    result = environment.reset()
    PLAYED["barrier"].wait(20)
    while not result.done:
        result = environment.step(ask(endpoint, result.observation.text))


async def test_programs_that_block_hold_up_nobody(tmp_path: Path) -> None:
    PLAYED["barrier"] = threading.Barrier(12)
    async with stage(tmp_path, slots=12, **ONE_GROUP, group_size=12) as scene:
        async with scene.agent(**program("solve_slowly"), concurrency=12):
            assert len(await scene.trajectories()) == 12
        assert await scene.faults("agent_error") == 0


async def outcomes(scene: Stage) -> dict[str, int]:
    """Finished episodes by outcome."""
    assert scene.manager is not None
    return (await scene.manager.status()).outcomes


def details(caplog: pytest.LogCaptureFixture) -> str:
    """What the faults of the agents said."""
    return " ".join(str(getattr(record, "detail", "")) for record in caplog.records)
