"""Episodes over real sockets: what is recorded, and what each failure becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.api.services.common import VersionSpan
from shoal.api.services.roles.agent import AgentConfig
from shoal.api.services.trajectories import AgentStatus, Assignment, EpisodeOutcome, Segment
from shoal_workers.agent import runner
from shoal_workers.agent.chat import ChatHarness
from shoal_workers.agent.episode import EpisodeRun, Services, check_lengths
from shoal_workers.agent.harness import EpisodeEnd, EpisodeFaultError
from shoal_workers.agent.openai import OpenAIHarness
from shoal_workers.service import ConfigurationError, ProblemError, ServiceClient
from shoal_workers.tokens import ChatTokenizer
from tests.agent.stage import RIGHT, stage, words
from tests.models import IM_END, TEMPLATE, VOCABULARY, write_tokenizer

ONE_GROUP: dict[str, Any] = {"max_staleness": 0, "batch_groups": 1}


def span(start: int, end: int) -> VersionSpan:
    return VersionSpan(version=0, start=start, end=end)


async def test_a_trajectory_is_the_conversation_token_by_token(tmp_path: Path) -> None:
    async with stage(tmp_path, **ONE_GROUP) as scene, scene.agent() as url:
        scene.gateway.version = 2
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
        assert segment.versions == [VersionSpan(version=2, start=start, end=start + 2) for start in starts]
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


async def test_the_harness_config_holds_the_templates_variables(tmp_path: Path) -> None:
    hinted = TEMPLATE.replace("{% endfor %}", "{% if hint %}{{ hint + ' ' }}{% endif %}{% endfor %}")
    async with stage(tmp_path, **ONE_GROUP) as scene:
        write_tokenizer(tmp_path / "model", hinted)
        async with scene.agent(harness={"config": {"hint": "up"}}):
            (segment,) = (await scene.trajectories())[0].segments
        tokenizer = ChatTokenizer(tmp_path / "model")
        opening = tokenizer.render([{"role": "user", "content": "state 0"}], hint="up")
        second = tokenizer.continuation(RIGHT, [{"role": "user", "content": "state 1"}], hint="up")
        assert VOCABULARY["up"] in opening
        assert VOCABULARY["up"] in second
        assert segment.token_ids[: len(opening) + 2 + len(second)] == [*opening, *RIGHT, *second]
        with pytest.raises(ConfigurationError, match=r"harness\.config\.messages"):
            ChatHarness(scene.agent_config(harness={"config": {"messages": []}}))


async def test_evaluations_ask_for_their_weights_and_temperature(tmp_path: Path) -> None:
    evaluation = {"episodes": 2, "temperature": 0.0}
    async with stage(tmp_path, **ONE_GROUP, evaluation=evaluation) as scene, scene.agent():
        await scene.trajectories()
        kinds = {(each.min_version, each.sampling.temperature) for each in scene.gateway.requests}
        assert kinds == {(0, 0.0), (None, 1.0)}


async def test_model_calls_take_their_own_runs_weights_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet that another run still has is waited for, without an environment and without a fault."""
    begun: list[str] = []

    class ToldEpisode(EpisodeRun):
        def __init__(self, services: Services, assignment: Assignment) -> None:
            begun.append(assignment.id)
            super().__init__(services, assignment)

    monkeypatch.setattr(runner, "EpisodeRun", ToldEpisode)
    monkeypatch.setattr(runner, "FLEET_PAUSE_SECONDS", 0.01)
    async with stage(tmp_path, slots=16, **ONE_GROUP) as scene:
        scene.gateway.held_by = "b"
        # More places than there are episodes: a claim is on its way when the first of them is refused.
        async with scene.agent(run="a", concurrency=16) as url:
            await scene.until(lambda: scene.gateway.refusals > len(scene.gateway.requests) + 3)
            await scene.idle(url)
            await scene.all_released()
            looks = scene.gateway.refusals
            await scene.until(lambda: scene.gateway.refusals > looks + 3)
            assert len(begun) == len(set(begun)), "episodes are begun again although the fleet is another's"
            scene.gateway.held_by = ""
            await scene.trajectories()
        assert {each.run for each in scene.gateway.requests} == {"a"}
        assert await scene.faults("engine_error") == 0


async def test_an_episode_that_no_trainer_has_room_for_is_the_agents_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = Segment(token_ids=[1] * 201, loss_mask=[1] * 201, logprobs=[0.0] * 201, versions=[span(0, 201)])
    short = Segment(token_ids=[1] * 200, loss_mask=[1] * 200, logprobs=[0.0] * 200, versions=[span(0, 200)])
    check_lengths([short], 200)
    with pytest.raises(EpisodeFaultError, match="segment 2 of 2 has 201 tokens, max_model_len is 200"):
        check_lengths([short, long], 200)
    branch = short.model_copy(update={"parent": 0, "shared": 1})
    with pytest.raises(EpisodeFaultError, match="segment 2 of 2 has 201 tokens"):
        check_lengths([short, branch], 200)

    async def endless(*_: object) -> EpisodeEnd:
        return EpisodeEnd(EpisodeOutcome.OK, 1.0, 1, [long])

    monkeypatch.setattr(ChatHarness, "play", endless)
    async with stage(tmp_path, **ONE_GROUP) as scene:
        async with scene.agent():
            await scene.fault("agent_error")
        assert scene.manager is not None
        assert (await scene.manager.report()).proof.recorded == 0


@pytest.mark.parametrize("module", ["nonsense", "no.such.module:solve", "tests.agent.test_episodes:ONE_GROUP", ""])
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
