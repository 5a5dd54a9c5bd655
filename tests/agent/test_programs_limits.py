"""What a program does wrong, and limits that it runs into: never the environment's fault, and no reward paid twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.api.services.leases import StepResult
from shoal.api.services.trajectories import EpisodeOutcome
from shoal_workers.agent.errors import EpisodeFaultError
from shoal_workers.agent.limits import Limit, limit_of
from shoal_workers.agent.rewards import Rewards
from shoal_workers.service import ProblemError, ServiceClient
from tests.agent.stage import Stage, stage

ONE_GROUP: dict[str, Any] = {"max_staleness": 0, "batch_groups": 1}


def program(name: str) -> dict[str, Any]:
    """The settings of an agent that runs a function of this module."""
    return {"harness": {"type": "OpenAI", "module": f"tests.agent.test_programs_limits:{name}"}}


async def call(endpoint: Any, text: str) -> str:
    async with ServiceClient(endpoint.base_url) as client:
        body = {"model": endpoint.model, "messages": [{"role": "user", "content": text}]}
        answer = (await client.call("POST", "/chat/completions", body)).json()
        return str(answer["choices"][0]["message"]["content"])


async def play(environment: Any, endpoint: Any) -> None:
    result = await environment.reset()
    while not result.done:
        result = await environment.step(await call(endpoint, result.observation.text))


async def once_too_often(task: dict[str, Any], environment: Any, endpoint: Any) -> None:
    """Looks once more whether there is something to do, and lets what it gets pass, or not."""
    await play(environment, endpoint)
    try:
        await environment.step("right")
    except Exception:
        if task.get("falls"):
            raise


async def plays_twice(task: dict[str, Any], environment: Any, endpoint: Any) -> None:
    """Wants the reward again."""
    await play(environment, endpoint)
    await play(environment, endpoint)


async def never_resets(task: dict[str, Any], environment: Any, endpoint: Any) -> None:
    """Forgets the reset."""
    await environment.step(await call(endpoint, "state 0"))


def faulty_slots(scene: Stage) -> list[int]:
    return [slot.faults for slot in scene.member.guard._slots]


@pytest.mark.parametrize(
    ("name", "task"), [("once_too_often", {}), ("once_too_often", {"falls": 1}), ("plays_twice", {})]
)
async def test_what_comes_after_the_end_changes_nothing(tmp_path: Path, name: str, task: dict[str, Any]) -> None:
    async with stage(tmp_path, **ONE_GROUP, tasks={"inline": [task]}) as scene:
        async with scene.agent(**program(name)):
            rows = await scene.trajectories()
        assert [(row.outcome, row.reward, row.turns) for row in rows] == [(EpisodeOutcome.OK, 1.0, 3)] * len(rows)
        assert scene.manager is not None
        assert set((await scene.manager.status()).outcomes) == {"ok"}
        assert not any(faulty_slots(scene))


async def test_a_step_before_the_reset_is_the_programs_fault(tmp_path: Path) -> None:
    async with stage(tmp_path, **ONE_GROUP) as scene:
        async with scene.agent(**program("never_resets")):
            await scene.fault("agent_error")
        assert scene.manager is not None
        assert set((await scene.manager.status()).outcomes) == {"agent_error"}
        assert not any(faulty_slots(scene))


class StatusError(Exception):
    """As OpenAI clients raise it."""

    def __init__(self, status_code: int, message: str) -> None:
        super().__init__(message)
        self.status_code = status_code


async def grows(task: dict[str, Any], environment: Any, endpoint: Any) -> None:
    """One turn, then a prompt that does not fit."""
    result = await environment.reset()
    if not task.get("at_once"):
        await environment.step(await call(endpoint, result.observation.text))
    try:
        raise StatusError(422, "the prompt has 300 tokens; max_model_len is 200")
    except StatusError as error:
        raise ValueError("wrapped by a framework") from error


async def test_a_context_that_overflows_cuts_the_episode(tmp_path: Path) -> None:
    async with stage(tmp_path, **ONE_GROUP) as scene, scene.agent(**program("grows")):
        rows = await scene.trajectories()
    assert {(row.outcome, row.turns) for row in rows} == {(EpisodeOutcome.TRUNCATED, 1)}


async def test_a_task_whose_first_prompt_does_not_fit_is_set_aside(tmp_path: Path) -> None:
    tasks = {"inline": [{"id": "long", "at_once": True}]}
    async with stage(tmp_path, **ONE_GROUP, tasks=tasks) as scene, scene.agent(**program("grows")):
        await scene.fault("unfit_task")
        assert scene.manager is not None
        status = await scene.manager.status()
    assert list(status.set_aside) == ["long"]
    assert status.consecutive_faults == 0


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        (StatusError(422, "the prompt has 9 tokens; max_model_len is 8"), Limit.CONTEXT),
        (StatusError(400, "This model's maximum context length is 8 tokens"), Limit.CONTEXT),
        (StatusError(400, "Error code: 400 - {'code': 'context_length_exceeded'}"), Limit.CONTEXT),
        (StatusError(422, "stream: answers are not streamed"), None),
        (StatusError(500, "context length"), None),
        (StatusError(429, "full"), Limit.BUSY),
        (ProblemError("queue-full", "9 wait", status=429), Limit.BUSY),
        (ValueError("max_model_len"), None),
    ],
)
def test_limits_by_status(error: Exception, limit: Limit | None) -> None:
    assert limit_of(error) is limit


def result(reward: float | None, done: bool = False) -> StepResult:
    return StepResult.model_validate({"observation": {"text": ""}, "reward": reward, "done": done})


@pytest.mark.parametrize(
    ("rewards", "cause"),
    [
        ([float("nan")], "nan is no finite number"),
        ([float("-inf")], "-inf is no finite number"),
        ([1e308, 1e308], "inf is no finite number"),
        ([None, None], "no step gave one"),
    ],
)
def test_a_reward_that_is_no_number_is_the_graders_fault(rewards: list[float | None], cause: str) -> None:
    total = Rewards()
    for reward in rewards[:-1]:
        total.add(result(reward))
    with pytest.raises(EpisodeFaultError, match=cause) as caught:
        total.add(result(rewards[-1], done=True))
    assert caught.value.outcome is EpisodeOutcome.GRADER_ERROR


def test_steps_without_a_reward_of_their_own_are_fine() -> None:
    total = Rewards()
    for reward, done in ((None, False), (0.5, False), (None, True)):
        total.add(result(reward, done))
    assert total.total == 0.5
