"""OpenAI's routes, so that any agent framework reaches the fleet by its base URL alone."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from shoal.api.services.models import FinishReason, GenerateRequest, GenerateResult, SamplingParameters
from shoal_workers.gateway.calls import Calls
from shoal_workers.gateway.sessions import Sessions, within
from shoal_workers.service import ProblemError, Service, read
from shoal_workers.service.abandon import CLIENT_CLOSED_REQUEST, Abandon, AbandonedError
from shoal_workers.tokens import RESERVED_VARIABLES, ChatTokenizer, TemplateError

# What the engines do not do, and the values with which nothing is asked of them. Any other is refused: ignored, it
# would give answers of another policy than the caller believes in. Fields that are not listed change no token.
_NOT_DONE: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("auto", "none"),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("auto", "none"),
    "top_k": (0, -1),
}


class _Body(BaseModel):
    """What both kinds of call share. Fields that would change the meaning if ignored are refused."""

    model_config = ConfigDict(extra="allow")

    model: str = ""
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = None
    n: int = 1
    stream: bool = False
    stop: str | list[str] | None = None
    stop_token_ids: tuple[int, ...] = ()
    user: str = ""
    session: str = ""


B = TypeVar("B", bound=_Body)


class ChatBody(_Body):
    """A chat completion."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)


class CompletionBody(_Body):
    """A text completion; the prompt is text or token ids."""

    prompt: str | list[int]


class OpenAI:
    """Answers OpenAI's calls with the fleet's policy, with token ids, log-probs and weight-version spans."""

    def __init__(
        self, calls: Calls, sessions: Sessions, tokenizer: ChatTokenizer, served_name: str, default_tokens: int = 256
    ) -> None:
        self._calls = calls
        self._sessions = sessions
        self._tokenizer = tokenizer
        self._served_name = served_name
        self._default_tokens = default_tokens

    def add_routes(self, service: Service) -> None:
        """Add the routes, each also under /sessions/{session}."""
        app = service.app

        @app.get("/v1/models")
        @app.get("/sessions/{session}/v1/models")
        async def models(session: str = "") -> Response:
            entry = {"id": self._served_name, "object": "model", "owned_by": "shoal"}
            return _answer({"object": "list", "data": [entry]})

        @app.post("/v1/chat/completions")
        @app.post("/sessions/{session}/v1/chat/completions")
        async def chat(request: Request, session: str = "") -> Response:
            return await _answered(request, ChatBody, lambda body: self.chat(body, session))

        @app.post("/v1/completions")
        @app.post("/sessions/{session}/v1/completions")
        async def completions(request: Request, session: str = "") -> Response:
            return await _answered(request, CompletionBody, lambda body: self.complete(body, session))

    async def chat(self, body: ChatBody, session: str) -> dict[str, Any]:
        """One chat completion. In a session, earlier messages keep the exact tokens they had."""
        prompt = self._prompt(body, session)
        result, prompt = await self._generate(body, session, prompt)
        text = self._text(result)
        message = {"role": "assistant", "content": text}
        if session:
            self._sessions.record(session, prompt, result, [*body.messages, message])
        choice = {"index": 0, "message": message, "logprobs": self._chat_logprobs(result)}
        return self._envelope("chat.completion", prompt, result, choice)

    async def complete(self, body: CompletionBody, session: str) -> dict[str, Any]:
        """One text completion."""
        prompt = body.prompt if isinstance(body.prompt, list) else self._tokenizer.encode(body.prompt)
        result, prompt = await self._generate(body, session, prompt)
        if session:
            self._sessions.record(session, prompt, result)
        logprobs = {"tokens": self._pieces(result), "token_logprobs": result.logprobs}
        choice = {"index": 0, "text": self._text(result), "logprobs": logprobs}
        return self._envelope("text_completion", prompt, result, choice)

    def _prompt(self, body: ChatBody, session: str) -> list[int]:
        try:
            own = body.chat_template_kwargs.keys() & RESERVED_VARIABLES
            if own:
                raise ProblemError("unsupported", f"chat_template_kwargs.{min(own)}: is not for callers", status=422)
            variables = {**body.chat_template_kwargs, **({"tools": body.tools} if body.tools else {})}
            known = self._sessions.continued(session, body.messages) if session else None
            if known is not None:
                tokens, new = known
                return [*tokens, *self._tokenizer.continuation(tokens, new, **variables)]
            return self._tokenizer.render(body.messages, True, **variables)
        except TemplateError as error:
            raise ProblemError("template-error", str(error), status=422) from None

    async def _generate(self, body: _Body, session: str, prompt: Sequence[int]) -> tuple[GenerateResult, list[int]]:
        self._refuse_unsupported(body, prompt)
        request = GenerateRequest(
            request_id=uuid.uuid4().hex,
            session=session or body.session or body.user,
            prompt_token_ids=list(prompt),
            sampling=SamplingParameters(
                max_tokens=body.max_completion_tokens or body.max_tokens or self._most_tokens(session),
                temperature=body.temperature,
                top_p=body.top_p,
                stop_token_ids=(*body.stop_token_ids, *self._stop_tokens(body.stop)),
                seed=body.seed,
            ),
        )
        if session:
            request = within(session, self._sessions.settings(session), request)
        return await self._calls.generate(request), request.prompt_token_ids

    def _most_tokens(self, session: str) -> int:
        """Tokens of an answer whose caller names no limit."""
        settings = self._sessions.settings(session)
        return settings.sampling.max_tokens if settings else self._default_tokens

    def _refuse_unsupported(self, body: _Body, prompt: Sequence[int]) -> None:
        if body.model and body.model != self._served_name:
            raise ProblemError("unknown-model", f"model: {body.model!r} is not {self._served_name!r}", status=404)
        if body.stream:
            raise ProblemError("unsupported", "stream: answers are not streamed", status=422)
        for name, neutral in _NOT_DONE.items():
            value = (body.model_extra or {}).get(name)
            if value is not None and value not in neutral:
                raise ProblemError("unsupported", f"{name}: {value!r} is not supported", status=422)
        if body.n != 1:
            raise ProblemError("unsupported", "n: one answer per call", status=422)
        if not prompt:
            raise ProblemError("invalid-prompt", "prompt: is empty", status=422)

    def _stop_tokens(self, stop: str | list[str] | None) -> list[int]:
        """Stop strings that are single tokens; others would have to be cut out of generated tokens: refused."""
        found = []
        for text in [stop] if isinstance(stop, str) else stop or ():
            tokens = self._tokenizer.encode(text)
            if len(tokens) != 1:
                raise ProblemError("unsupported", f"stop: {text!r} is not one token", status=422)
            found += tokens
        return [*found, *self._tokenizer.stop_token_ids] if found else []

    def _text(self, result: GenerateResult) -> str:
        return self._tokenizer.decode(result.token_ids)

    def _pieces(self, result: GenerateResult) -> list[str]:
        return [self._tokenizer.decode([token], skip_special_tokens=False) for token in result.token_ids]

    def _chat_logprobs(self, result: GenerateResult) -> dict[str, Any]:
        pairs = zip(self._pieces(result), result.logprobs, strict=True)
        return {"content": [{"token": text, "logprob": value, "top_logprobs": []} for text, value in pairs]}

    def _envelope(
        self, kind: str, prompt: Sequence[int], result: GenerateResult, choice: dict[str, Any]
    ) -> dict[str, Any]:
        spans = [{"version": span.version, "start": span.start, "end": span.end} for span in result.versions]
        reason = "stop" if result.finish_reason is FinishReason.STOP else "length"
        choice = {**choice, "finish_reason": reason, "token_ids": result.token_ids, "weight_versions": spans}
        used, made = len(prompt), len(result.token_ids)
        return {
            "id": f"shoal-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self._served_name,
            "choices": [choice],
            "prompt_token_ids": list(prompt),
            "usage": {"prompt_tokens": used, "completion_tokens": made, "total_tokens": used + made},
        }


async def _answered(
    request: Request, model: type[B], work: Callable[[B], Coroutine[Any, Any, Mapping[str, Any]]]
) -> Response:
    """The work's answer. A caller that hangs up ends the work: what nobody got must not be in the session's record.

    Problems carry OpenAI's `error` as well, the only place where its clients look for a message.
    """
    try:
        body = await read(request, model)
        with Abandon(request):
            return _answer(await work(body))
    except AbandonedError:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except ProblemError as error:
        told = {"message": error.detail, "type": error.name, "code": error.name, "param": None}
        extensions = {**error.extensions, "error": told}
        raise ProblemError(error.name, error.detail, status=error.status, extensions=extensions) from None


def _answer(content: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
