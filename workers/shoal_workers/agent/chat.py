"""The Chat harness: observations as user messages, answers as actions, and never a token made twice.

The conversation is kept as token ids. What the policy sampled goes back to it as the very tokens it sampled; each new
observation adds exactly the tokens that the chat template puts around it.
"""

import logging
from typing import Any

from shoal.api.services.leases import StepResult
from shoal.api.services.roles.agent import AgentConfig
from shoal.api.services.trajectories import EpisodeOutcome
from shoal_workers.agent.budget import BUDGETS
from shoal_workers.agent.harness import Episode, EpisodeEnd, EpisodeFaultError
from shoal_workers.agent.rewards import Rewards
from shoal_workers.agent.tape import Tape
from shoal_workers.service import ConfigurationError
from shoal_workers.tokens import RESERVED_VARIABLES, ChatTokenizer, TemplateError

logger = logging.getLogger(__name__)


class ChatHarness:
    """Plays episodes as conversations. The harness's `config` holds variables of the chat template."""

    def __init__(self, config: AgentConfig) -> None:
        """Raises ConfigurationError for a model folder without a tokeniser or chat template."""
        self._config = config
        self._budget = BUDGETS.build(config.turn_budget)
        try:
            self.tokenizer = ChatTokenizer(config.model)
        except (FileNotFoundError, TemplateError) as error:
            raise ConfigurationError("model", str(error)) from error
        if not self.tokenizer.has_template:
            raise ConfigurationError("model", f"{config.model} has no chat template, which harness Chat needs")
        reserved = config.harness.config.keys() & RESERVED_VARIABLES
        if reserved:
            raise ConfigurationError(f"harness.config.{min(reserved)}", "is set by the harness itself")
        self._variables = config.harness.config

    async def play(self, episode: Episode) -> EpisodeEnd:
        """One episode, from the start or from where another agent left it."""
        result = await self._begin(episode)
        tape, limit = episode.tape, self._budget.turns(episode.assignment, self._config.max_turns)
        while True:
            end = self._end_of(tape, result, limit)
            if end is not None:
                return EpisodeEnd(end, tape.rewards.total, tape.turns, tape.segments())
            added = self._continuation(tape.token_ids, result) if tape.turns else []
            if len(tape) + len(added) >= self._config.max_model_len:
                return self._no_room(tape, len(added))
            tape.read(added)
            result = await self._turn(episode)

    async def _begin(self, episode: Episode) -> StepResult:
        """Reset, and go back to where the episode was interrupted, if it was."""
        assignment = episode.assignment
        if assignment.resume is not None and assignment.resume.segments:
            resumed = await self._resume(episode)
            if resumed is not None:
                return resumed
            episode.tape = Tape()
        result = await self._reset(episode)
        episode.tape.read(self._opening(result))
        return result

    async def _reset(self, episode: Episode) -> StepResult:
        task = episode.assignment.task
        return await episode.environment.reset(task.get("seed"), task, episode.assignment.id)

    async def _resume(self, episode: Episode) -> StepResult | None:
        """Replay the actions; None when the environment does not come to the same observations, so that all starts
        anew.
        """
        prefix = episode.assignment.resume
        assert prefix is not None
        (segment,) = prefix.segments
        result = await self._reset(episode)
        expected = self._opening(result)
        rewards = Rewards()
        for action in prefix.actions:
            if segment.token_ids[: len(expected)] != expected or result.done:
                return None
            while len(expected) < len(segment.token_ids) and segment.loss_mask[len(expected)]:
                expected.append(segment.token_ids[len(expected)])
            result = await episode.environment.step(action)
            rewards.add(result)
            if not result.done:
                expected += self._continuation(expected, result)
        sampled = [index for index, mask in enumerate(segment.loss_mask) if mask]
        kept = sampled[-1] + 1
        episode.tape = Tape(
            token_ids=list(segment.token_ids[:kept]),
            loss_mask=list(segment.loss_mask[:kept]),
            logprobs=list(segment.logprobs[:kept]),
            spans=list(segment.versions),
            actions=list(prefix.actions),
            turns=prefix.turns,
            rewards=rewards,
        )
        return result

    async def _turn(self, episode: Episode) -> StepResult:
        """One model call and the step that it causes."""
        tape, config = episode.tape, self._config
        room = config.max_model_len - len(tape)
        answer = await episode.model.generate(tape.token_ids, min(config.max_tokens_per_turn, room))
        if answer.finish_reason == "abort" or not answer.token_ids:
            raise EpisodeFaultError(EpisodeOutcome.ENGINE_ERROR, f"the engine ended with {answer.finish_reason}")
        action: dict[str, Any] = {"text": self.tokenizer.decode(answer.token_ids).strip()}
        result = await episode.environment.step(action)
        # Only now: an interruption between the two leaves a tape that ends before this turn, and can be resumed.
        tape.wrote(answer.token_ids, answer.logprobs, answer.versions)
        tape.actions.append(action)
        tape.turns += 1
        tape.rewards.add(result)
        return result

    def _no_room(self, tape: Tape, added: int) -> EpisodeEnd:
        """The next prompt does not fit; what it would have added is left away, as nothing was sampled after it."""
        if not tape.turns:
            sizes = f"the first prompt has {len(tape) + added} tokens, max_model_len is {self._config.max_model_len}"
            raise EpisodeFaultError(EpisodeOutcome.UNFIT_TASK, sizes)
        return EpisodeEnd(EpisodeOutcome.TRUNCATED, tape.rewards.total, tape.turns, tape.segments())

    def _end_of(self, tape: Tape, result: StepResult, limit: int) -> EpisodeOutcome | None:
        """Whether the episode is over, and how."""
        if not tape.turns:
            return None
        if result.invalid_action is not None and self._config.harness.invalid_action == "Terminate":
            return EpisodeOutcome.INVALID_ACTION
        if result.done:
            return EpisodeOutcome.TRUNCATED if result.truncated else EpisodeOutcome.OK
        return EpisodeOutcome.TRUNCATED if tape.turns >= limit else None

    def _opening(self, result: StepResult) -> list[int]:
        return self.tokenizer.render([*self._system(), _user(result)], **self._variables)

    def _continuation(self, token_ids: list[int], result: StepResult) -> list[int]:
        return self.tokenizer.continuation(token_ids, [_user(result)], **self._variables)

    def _system(self) -> list[dict[str, str]]:
        prompt = self._config.harness.system_prompt
        return [{"role": "system", "content": prompt}] if prompt else []


def _user(result: StepResult) -> dict[str, str]:
    return {"role": "user", "content": result.observation.text}
