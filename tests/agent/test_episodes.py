"""Episodes over real sockets: what is recorded, and what each failure becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.api.services.common import VersionSpan
from shoal.api.services.roles.agent import AgentConfig
from shoal.api.services.trajectories import AgentStatus, EpisodeOutcome
from shoal_workers.agent.chat import ChatHarness
from shoal_workers.agent.openai import OpenAIHarness
from shoal_workers.service import ConfigurationError, ProblemError, ServiceClient
from shoal_workers.tokens import ChatTokenizer
from tests.agent.stage import RIGHT, stage, words
from tests.models import IM_END

ONE_GROUP: dict[str, Any] = {"max_staleness": 0, "batch_groups": 1}


async def test_a_trajectory_is_the_conversation_token_by_token(tmp_path: Path) -> None:
    async with stage(tmp_path, **ONE_GROUP) as scene, scene.agent() as url:
        scene.gateway.version = 7
        trajectory = (await scene.trajectories())[0]
        (segment,) = trajectory.segments
        tokenizer = ChatTokenizer(tmp_path / "model")
        messages = []
        for cell in range(3):
            messages += [{"role": "user", "content": f"state {cell}"}, {"role": "assistant", "content": "right"}]
        assert segment.token_ids == tokenizer.render(messages, add_generation_prompt=False)
        sampled = [token for token, mask in zip(segment.token_ids, segment.loss_mask, strict=True) if mask]
        assert sampled == RIGHT * 3
        logprobs = zip(segment.logprobs, segment.loss_mask, strict=True)
        assert [value for value, mask in logprobs if mask] == [-0.5, -1.5] * 3
        assert all(value == 0 for value, mask in zip(segment.logprobs, segment.loss_mask, strict=True) if not mask)
        starts = [index for index, token in enumerate(segment.token_ids) if token == RIGHT[0]]
        assert segment.versions == [VersionSpan(version=7, start=start, end=start + 2) for start in starts]
        assert (trajectory.reward, trajectory.outcome, trajectory.turns) == (1.0, EpisodeOutcome.OK, 3)
        # Every prompt continues the one before by the very tokens that were sampled.
        session = scene.gateway.requests[0].session
        prompts = [each.prompt_token_ids for each in scene.gateway.requests if each.session == session]
        assert [segment.token_ids[: len(prompt)] for prompt in prompts] == prompts
        async with ServiceClient(url) as client:
            status = await client.get("/status", AgentStatus)
        assert status.outcomes == {"ok": 2}
        assert status.turns == 6
        await scene.all_released()


async def test_a_cut_off_answer_is_closed_by_the_template(tmp_path: Path) -> None:
    async with stage(tmp_path, **ONE_GROUP) as scene, scene.agent(max_tokens_per_turn=1):
        (segment,) = (await scene.trajectories())[0].segments
        assert sum(segment.loss_mask) == 3
        after = segment.loss_mask.index(1) + 1
        assert (segment.token_ids[after], segment.loss_mask[after]) == (IM_END, 0)


@pytest.mark.parametrize(
    ("changes", "task", "answer", "outcome", "turns"),
    [
        ({}, {}, words("left"), EpisodeOutcome.TRUNCATED, 6),
        ({}, {"cut_at": 2}, words("right"), EpisodeOutcome.TRUNCATED, 2),
        ({"max_model_len": 20}, {}, words("left"), EpisodeOutcome.TRUNCATED, 2),
        ({}, {}, words("north"), EpisodeOutcome.INVALID_ACTION, 1),
        ({"harness": {"invalid_action": "Continue"}}, {}, words("north"), EpisodeOutcome.TRUNCATED, 6),
    ],
)
async def test_outcomes(
    tmp_path: Path,
    changes: dict[str, Any],
    task: dict[str, Any],
    answer: list[int],
    outcome: EpisodeOutcome,
    turns: int,
) -> None:
    async with stage(tmp_path, **ONE_GROUP, tasks={"inline": [task]}) as scene:
        scene.gateway.answer = lambda prompt: [*answer, IM_END]
        async with scene.agent(**changes):
            trajectory = (await scene.trajectories())[0]
    assert (trajectory.outcome, trajectory.turns, trajectory.reward) == (outcome, turns, 0.0)
    assert len(trajectory.segments[0].token_ids) <= changes.get("max_model_len", 200)


async def test_a_system_prompt_comes_first(tmp_path: Path) -> None:
    async with stage(tmp_path, **ONE_GROUP) as scene:
        async with scene.agent(harness={"system_prompt": "go goal"}):
            (segment,) = (await scene.trajectories())[0].segments
        begin = ChatTokenizer(tmp_path / "model").render([{"role": "system", "content": "go goal"}], False)
        assert segment.token_ids[: len(begin)] == begin


@pytest.mark.parametrize(
    ("task", "outcome"), [({"break_at": 2}, "environment_error"), ({"grade_at": 2}, "grader_error")]
)
async def test_the_environments_failures_are_no_rewards(tmp_path: Path, task: dict[str, Any], outcome: str) -> None:
    async with stage(tmp_path, **ONE_GROUP, tasks={"inline": [task]}) as scene:
        async with scene.agent():
            await scene.fault(outcome)
        assert scene.manager is not None
        assert (await scene.manager.report()).proof.recorded == 0


@pytest.mark.parametrize("failure", [ProblemError("bad-model", "no", status=500), None])
async def test_the_engines_failures_are_no_rewards(tmp_path: Path, failure: ProblemError | None) -> None:
    async with stage(tmp_path, **ONE_GROUP) as scene:
        scene.gateway.failures = [failure] * 100 if failure else []
        scene.gateway.finish = "stop" if failure else "abort"
        async with scene.agent():
            await scene.fault("engine_error")
            scene.gateway.failures, scene.gateway.finish = [], "stop"
            assert [each.reward for each in await scene.trajectories()] == [1.0, 1.0]


async def test_a_gateway_that_is_busy_is_waited_for(tmp_path: Path) -> None:
    async with stage(tmp_path, **ONE_GROUP) as scene:
        away = ProblemError("queue-full", "later", status=429)
        scene.gateway.failures = [away] * 3
        async with scene.agent():
            assert len(await scene.trajectories()) == 2
        assert await scene.faults("engine_error") == 0


async def test_a_harness_with_a_defect_is_the_agents_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("by me")

    monkeypatch.setattr(ChatHarness, "play", broken)
    async with stage(tmp_path, **ONE_GROUP) as scene:
        async with scene.agent():
            await scene.fault("agent_error")
        await scene.all_released()


async def test_evaluations_ask_for_their_weights_and_temperature(tmp_path: Path) -> None:
    evaluation = {"episodes": 2, "temperature": 0.0}
    async with stage(tmp_path, **ONE_GROUP, evaluation=evaluation) as scene, scene.agent():
        await scene.trajectories()
        kinds = {(each.min_version, each.sampling.temperature) for each in scene.gateway.requests}
        assert kinds == {(0, 0.0), (None, 1.0)}


async def solve(task: dict[str, Any], environment: Any, endpoint: Any) -> None:
    """An agent program that knows nothing of Shoal but a base URL."""
    result = await environment.reset()
    if task.get("clumsy"):
        raise ValueError("fell over")
    async with ServiceClient(endpoint.base_url) as client:
        while not result.done:
            body = {"model": endpoint.model, "messages": [{"role": "user", "content": result.observation.text}]}
            answer = (await client.call("POST", "/chat/completions", body)).json()
            result = await environment.step(answer["choices"][0]["message"]["content"])


OPENAI = {"harness": {"type": "OpenAI", "module": "tests.agent.test_episodes:solve"}}


async def test_any_program_is_traced_by_its_base_url(tmp_path: Path) -> None:
    async with stage(tmp_path, **ONE_GROUP) as scene, scene.agent(**OPENAI):
        trajectory = (await scene.trajectories())[0]
        assert (trajectory.reward, trajectory.turns, trajectory.outcome) == (1.0, 3, EpisodeOutcome.OK)
        assert [segment.token_ids for segment in trajectory.segments] == [[1, 2, *RIGHT]] * 3
        await scene.until(lambda: not scene.gateway.sessions)


@pytest.mark.parametrize(
    ("task", "outcome"), [({"break_at": 1}, "environment_error"), ({"clumsy": True}, "agent_error")]
)
async def test_a_programs_failures_have_their_names(tmp_path: Path, task: dict[str, Any], outcome: str) -> None:
    async with stage(tmp_path, **ONE_GROUP, tasks={"inline": [task]}) as scene, scene.agent(**OPENAI):
        await scene.fault(outcome)


@pytest.mark.parametrize("module", ["nonsense", "no.such.module:solve", "tests.agent.test_episodes:OPENAI", ""])
def test_a_program_that_is_not_there(module: str) -> None:
    config = AgentConfig.model_validate(
        {
            "model": "m",
            "data_url": "d",
            "gateway_url": "g",
            "pools": [{"name": "p", "broker_url": "b", "credential": "p"}],
            "harness": {"type": "OpenAI", "module": module},
        }
    )
    with pytest.raises(ConfigurationError, match=r"harness\.module"):
        OpenAIHarness(config)
    with pytest.raises(ConfigurationError, match="model"):
        ChatHarness(config)
