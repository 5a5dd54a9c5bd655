"""One call in messages, whatever protocol it came in: its prompt, its tokens, and the message that they are."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal.api.services.models import (
    FinishReason,
    GenerateRequest,
    GenerateResult,
    ParsedAnswer,
    ParseRequest,
    SamplingParameters,
)
from shoal_workers.gateway.calls import Calls
from shoal_workers.gateway.engines import Engines
from shoal_workers.gateway.sessions import Sessions, within
from shoal_workers.service import ProblemError
from shoal_workers.tokens import RESERVED_VARIABLES, ChatTokenizer, TemplateError
from shoal_workers.tokens.messages import MessageError, plain_messages

_FORCED = (
    "tool_choice: {!r} would be enforced by a grammar, which changes the distribution that tokens are drawn from; "
    "inside an opened session the policy chooses by itself, elsewhere use auto"
)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the caller would have it sampled; a session's own settings come first."""

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = ()
    stop_token_ids: tuple[int, ...] = ()
    user: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """A conversation that the policy shall answer, in OpenAI's messages. `tool_choice` is OpenAI's as well."""

    messages: Sequence[Any]
    sampling: Sampling
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: Any = "auto"
    parallel: bool = True
    variables: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1

    @property
    def context(self) -> Mapping[str, Any]:
        """What the template is given beside the messages."""
        return {**self.variables, **({"tools": list(self.tools)} if self.tools and self.tool_choice != "none" else {})}


@dataclass(frozen=True, slots=True)
class Answer:
    """The policy's message, and the tokens that it is. `reason`: stop, length or tool_calls."""

    message: dict[str, Any]
    prompt: list[int]
    result: GenerateResult
    reason: str


class Conversations:
    """Answers conversations with the fleet's policy; in a session, with the exact tokens of what was said before."""

    def __init__(
        self, calls: Calls, engines: Engines, sessions: Sessions, tokenizer: ChatTokenizer, default_tokens: int = 256
    ) -> None:
        self._calls = calls
        self._engines = engines
        self._sessions = sessions
        self._tokenizer = tokenizer
        self._default_tokens = default_tokens

    async def answers(self, ask: Ask, session: str) -> list[Answer]:
        """`ask.count` answers; raises ProblemError."""
        try:
            messages = plain_messages(ask.messages)
        except MessageError as error:
            raise ProblemError("invalid-messages", str(error), status=422) from None
        settings = self._sessions.settings(session)
        if ask.tool_choice not in ("auto", "none", None) and settings is None:
            raise ProblemError("unsupported", _FORCED.format(ask.tool_choice), status=422)
        if session:
            self._sessions.admit(session)
        prompt = self.prompt(messages, ask, session)
        seeds = [ask.sampling.seed if ask.sampling.seed is None else ask.sampling.seed + i for i in range(ask.count)]
        made = await asyncio.gather(*(self.generate(ask.sampling, seed, session, prompt) for seed in seeds))
        answers = [await self._answer(ask, messages, sent, result) for sent, result in made]
        if session:
            for answer in answers:
                told = [*messages, answer.message]
                self._sessions.record(session, answer.prompt, answer.result, told, ask.context)
        return answers

    def prompt(self, messages: Sequence[Mapping[str, Any]], ask: Ask, session: str) -> list[int]:
        """The tokens of the conversation.

        What a session has had before keeps its tokens, where the template lets the rest be added to them; where it
        does not, and outside sessions, the whole is rendered. Raises ProblemError.
        """
        own = ask.variables.keys() & RESERVED_VARIABLES
        if own:
            raise ProblemError("unsupported", f"chat_template_kwargs.{min(own)}: is not for callers", status=422)
        known = self._sessions.continued(session, messages, ask.context) if session else None
        try:
            if known is not None:
                tokens, new = known
                return [*tokens, *self._tokenizer.continuation(tokens, new, **ask.context)]
        except TemplateError:
            # This template writes what came before otherwise now. The branch shares what has stayed the same.
            pass
        try:
            prompt = self._tokenizer.render(messages, True, **ask.context)
        except TemplateError as error:
            raise ProblemError("template-error", str(error), status=422) from None
        if not prompt:
            raise ProblemError("invalid-prompt", "messages: the template makes an empty prompt of them", status=422)
        return prompt

    async def generate(
        self, sampling: Sampling, seed: int | None, session: str, prompt: Sequence[int]
    ) -> tuple[list[int], GenerateResult]:
        """The prompt as it was sent, and what was sampled, up to the first stop text; raises ProblemError."""
        settings = self._sessions.settings(session)
        most = settings.sampling.max_tokens if settings else self._default_tokens
        request = GenerateRequest(
            request_id=uuid.uuid4().hex,
            session=session or sampling.user,
            prompt_token_ids=list(prompt),
            sampling=SamplingParameters(
                max_tokens=sampling.max_tokens or most,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                stop_token_ids=sampling.stop_token_ids,
                seed=seed,
            ),
        )
        if session:
            request = within(session, settings, request)
        result = await self._calls.generate(request)
        return request.prompt_token_ids, self._cut(result, sampling.stop)

    def text(self, result: GenerateResult, stop: Sequence[str]) -> str:
        """What was sampled, up to the first stop text."""
        text = self._tokenizer.decode(result.token_ids)
        return text[: min((text.find(each) for each in stop if each in text), default=len(text))]

    def _cut(self, result: GenerateResult, stop: Sequence[str]) -> GenerateResult:
        """The tokens up to the one that completes the first stop text: the same as if sampling had ended there."""
        stop = [each for each in stop if each]
        decode = self._tokenizer.decode
        if not stop or not any(each in decode(result.token_ids) for each in stop):
            return result
        low, high = 0, len(result.token_ids)
        while low < high - 1:
            middle = (low + high) // 2
            done = any(each in decode(result.token_ids[:middle]) for each in stop)
            low, high = (low, middle) if done else (middle, high)
        spans = [span.model_copy(update={"end": min(span.end, high)}) for span in result.versions if span.start < high]
        return result.model_copy(
            update={
                "token_ids": result.token_ids[:high],
                "logprobs": result.logprobs[:high],
                "versions": spans,
                "finish_reason": FinishReason.STOP,
            }
        )

    async def _answer(
        self, ask: Ask, messages: Sequence[Mapping[str, Any]], prompt: list[int], result: GenerateResult
    ) -> Answer:
        text = self.text(result, ask.sampling.stop)
        reason = "stop" if result.finish_reason is FinishReason.STOP else "length"
        parsed = await self._parsed(ask, messages, prompt, result)
        if parsed is None:
            return Answer({"role": "assistant", "content": text}, prompt, result, reason)
        calls = parsed.tool_calls if ask.parallel else parsed.tool_calls[:1]
        message: dict[str, Any] = {"role": "assistant", "content": parsed.content}
        if parsed.reasoning:
            message["reasoning_content"] = message["reasoning"] = parsed.reasoning
        if calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in calls
            ]
            reason = "tool_calls" if reason == "stop" else reason
        elif message["content"] is None:
            message["content"] = ""
        return Answer(message, prompt, result, reason)

    async def _parsed(
        self, ask: Ask, messages: Sequence[Mapping[str, Any]], prompt: list[int], result: GenerateResult
    ) -> ParsedAnswer | None:
        """Tool calls and reasoning, found by the engine's own parsers; None where there is nothing to look for."""
        wants_tools = bool(ask.tools) and ask.tool_choice != "none"
        known = self._engines.parser(result.engine, tools=wants_tools)
        if known is None:
            return None
        body = ParseRequest(
            token_ids=result.token_ids,
            prompt_token_ids=prompt,
            messages=[dict(message) for message in messages],
            tools=[dict(tool) for tool in ask.tools] if wants_tools else [],
            variables=dict(ask.variables),
        )
        return await known.client.post("/parse", body, ParsedAnswer)
