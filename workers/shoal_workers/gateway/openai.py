"""OpenAI's routes, so that any agent framework reaches the fleet by its base URL alone."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from shoal.api.services.models import FinishReason, GenerateResult
from shoal_workers.gateway.conversation import Answer, Ask, Conversations, Sampling
from shoal_workers.gateway.faces import Body, answer, answered, events
from shoal_workers.gateway.sessions import Sessions
from shoal_workers.service import ProblemError, Service
from shoal_workers.tokens import ChatTokenizer

# What the engines do not do, and the values with which nothing is asked of them. Any other is refused: ignored, it
# would give answers of another policy than the caller believes in. Fields that are not listed change no token.
_NOT_DONE: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("auto", "none"),
    "functions": ([],),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "top_k": (0, -1),
    "top_logprobs": (0,),
}
MOST_ANSWERS = 128


class CallBody(Body):
    """What both kinds of call share. Fields that would change the meaning if ignored are refused."""

    model: str = ""
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = None
    n: int = Field(1, ge=1, le=MOST_ANSWERS)
    stream: bool = False
    stream_options: dict[str, Any] = Field(default_factory=dict)
    stop: str | list[str] = Field(default_factory=list)
    stop_token_ids: tuple[int, ...] = ()
    logprobs: bool | int = True
    user: str = ""
    session: str = ""

    @property
    def sampling(self) -> Sampling:
        """How to sample."""
        return Sampling(
            self.max_completion_tokens or self.max_tokens,
            self.temperature,
            self.top_p,
            self.seed,
            [self.stop] if isinstance(self.stop, str) else self.stop,
            self.stop_token_ids,
            self.session or self.user,
        )


class ChatBody(CallBody):
    """A chat completion."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    tools: list[dict[str, Any]] = Field(default_factory=list)
    tool_choice: Any = "auto"
    parallel_tool_calls: bool = True
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)


class CompletionBody(CallBody):
    """A text completion; a prompt is text or token ids, and there may be several."""

    prompt: str | list[int] | list[str] | list[list[int]]

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt."""
        if isinstance(self.prompt, str) or not self.prompt or isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)


class OpenAI:
    """Answers OpenAI's calls with the fleet's policy, with token ids, log-probs and weight-version spans."""

    def __init__(
        self, conversations: Conversations, sessions: Sessions, tokenizer: ChatTokenizer, served_name: str
    ) -> None:
        self._conversations = conversations
        self._sessions = sessions
        self._tokenizer = tokenizer
        self._served_name = served_name

    def add_routes(self, service: Service) -> None:
        """Add the routes, each also under /sessions/{session}."""
        app = service.app

        @app.get("/v1/models")
        @app.get("/sessions/{session}/v1/models")
        async def models(session: str = "") -> Response:
            return answer({"object": "list", "data": [self._model()]})

        @app.get("/v1/models/{name}")
        @app.get("/sessions/{session}/v1/models/{name}")
        async def model(name: str, session: str = "") -> Response:
            self._check_model(name)
            return answer(self._model())

        @app.post("/v1/chat/completions")
        @app.post("/sessions/{session}/v1/chat/completions")
        async def chat(request: Request, session: str = "") -> Response:
            return await answered(request, ChatBody, lambda body: self.chat(body, session))

        @app.post("/v1/completions")
        @app.post("/sessions/{session}/v1/completions")
        async def completions(request: Request, session: str = "") -> Response:
            return await answered(request, CompletionBody, lambda body: self.complete(body, session))

    async def chat(self, body: ChatBody, session: str) -> Response:
        """Chat completions. In a session, earlier messages keep the exact tokens they had."""
        self._refuse_unsupported(body)
        ask = Ask(
            body.messages,
            body.sampling,
            body.tools,
            body.tool_choice,
            body.parallel_tool_calls,
            body.chat_template_kwargs,
            body.n,
        )
        answers = await self._conversations.answers(ask, session)
        choices = [self._chat_choice(index, each, bool(body.logprobs)) for index, each in enumerate(answers)]
        envelope = self._envelope("chat.completion", answers[0].prompt, [each.result for each in answers])
        if not body.stream:
            return answer({**envelope, "choices": choices})
        return events(_chat_chunks(envelope, choices, usage=bool(body.stream_options.get("include_usage"))))

    async def complete(self, body: CompletionBody, session: str) -> Response:
        """Text completions."""
        self._refuse_unsupported(body)
        made: list[tuple[list[int], GenerateResult]] = []
        for given in body.prompts:
            prompt = given if isinstance(given, list) else self._tokenizer.encode(given)
            if not prompt:
                raise ProblemError("invalid-prompt", "prompt: is empty", status=422)
            for index in range(body.n):
                seed = None if body.seed is None else body.seed + index
                made.append(await self._conversations.generate(body.sampling, seed, session, prompt))
        if session:
            for prompt, result in made:
                self._sessions.record(session, prompt, result)
        choices = [self._text_choice(index, result, body) for index, (_, result) in enumerate(made)]
        envelope = self._envelope("text_completion", made[0][0], [result for _, result in made])
        if not body.stream:
            return answer({**envelope, "choices": choices})
        return events([("", {**envelope, "choices": choices}), ("", "[DONE]")])

    def _model(self) -> dict[str, Any]:
        return {"id": self._served_name, "object": "model", "created": 0, "owned_by": "shoal"}

    def _check_model(self, name: str) -> None:
        if name and name != self._served_name:
            raise ProblemError("unknown-model", f"model: {name!r} is not {self._served_name!r}", status=404)

    def _refuse_unsupported(self, body: CallBody) -> None:
        self._check_model(body.model)
        for name, neutral in _NOT_DONE.items():
            value = (body.model_extra or {}).get(name)
            if value is not None and value not in neutral:
                raise ProblemError("unsupported", f"{name}: {value!r} is not supported", status=422)

    def _chat_choice(self, index: int, said: Answer, logprobs: bool) -> dict[str, Any]:
        choice = {
            "index": index,
            "message": said.message,
            "logprobs": self._chat_logprobs(said.result) if logprobs else None,
            "finish_reason": said.reason,
        }
        return {**choice, **_exact(said.result)}

    def _text_choice(self, index: int, result: GenerateResult, body: CompletionBody) -> dict[str, Any]:
        logprobs = {"tokens": self._pieces(result), "token_logprobs": result.logprobs}
        reason = "stop" if result.finish_reason is FinishReason.STOP else "length"
        text = self._conversations.text(result, body.sampling.stop)
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return {**choice, **_exact(result)}

    def _pieces(self, result: GenerateResult) -> list[str]:
        return [self._tokenizer.decode([token], skip_special_tokens=False) for token in result.token_ids]

    def _chat_logprobs(self, result: GenerateResult) -> dict[str, Any]:
        pairs = zip(self._pieces(result), result.logprobs, strict=True)
        content = [
            {"token": text, "logprob": value, "bytes": list(text.encode()), "top_logprobs": []} for text, value in pairs
        ]
        return {"content": content, "refusal": None}

    def _envelope(self, kind: str, prompt: Sequence[int], results: Sequence[GenerateResult]) -> dict[str, Any]:
        used, made = len(prompt), sum(len(result.token_ids) for result in results)
        return {
            "id": f"shoal-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self._served_name,
            "prompt_token_ids": list(prompt),
            "usage": {"prompt_tokens": used, "completion_tokens": made, "total_tokens": used + made},
        }


def _exact(result: GenerateResult) -> dict[str, Any]:
    spans = [{"version": span.version, "start": span.start, "end": span.end} for span in result.versions]
    return {"token_ids": result.token_ids, "weight_versions": spans}


def _chat_chunks(
    envelope: Mapping[str, Any], choices: Sequence[Mapping[str, Any]], *, usage: bool
) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    """The answers as a stream's chunks: role, then text and tool calls, then why it ended."""
    told = {name: value for name, value in envelope.items() if name not in ("usage", "prompt_token_ids")}
    told["object"] = "chat.completion.chunk"
    for choice in choices:
        message = choice["message"]
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        if message.get("reasoning_content"):
            deltas.append({"reasoning_content": message["reasoning_content"]})
        if message.get("content"):
            deltas.append({"content": message["content"]})
        if message.get("tool_calls"):
            deltas.append({"tool_calls": [{"index": i, **call} for i, call in enumerate(message["tool_calls"])]})
        for delta in deltas:
            yield "", {**told, "choices": [{"index": choice["index"], "delta": delta, "finish_reason": None}]}
        rest = {name: value for name, value in choice.items() if name != "message"}
        yield "", {**told, "choices": [{**rest, "delta": {}}]}
    if usage:
        yield "", {**told, "choices": [], "usage": envelope["usage"]}
    yield "", "[DONE]"
