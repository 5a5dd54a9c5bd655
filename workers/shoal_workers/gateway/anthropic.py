"""Anthropic's Messages route: a translation to and from OpenAI's messages, for programs that speak its protocol."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from shoal_workers.gateway.conversation import Answer, Ask, Conversations, Sampling
from shoal_workers.gateway.faces import Body, answer, answered, events
from shoal_workers.service import ProblemError, Service
from shoal_workers.tokens.messages import MessageError, plain_messages

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_NEUTRAL: dict[str, tuple[Any, ...]] = {"top_k": (0, -1)}


class MessagesBody(Body):
    """A call of the Messages API. `metadata`, `thinking`, `cache_control` and the like change no token."""

    model: str = ""
    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int = Field(ge=1)
    system: str | list[dict[str, Any]] = ""
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    stop_sequences: list[str] = Field(default_factory=list)
    stream: bool = False
    tools: list[dict[str, Any]] = Field(default_factory=list)
    tool_choice: dict[str, Any] = Field(default_factory=lambda: {"type": "auto"})


class CountBody(MessagesBody):
    """A call that only counts the prompt's tokens."""

    max_tokens: int = 1


class Anthropic:
    """Answers calls of the Messages API with the fleet's policy."""

    def __init__(self, conversations: Conversations, served_name: str) -> None:
        self._conversations = conversations
        self._served_name = served_name

    def add_routes(self, service: Service) -> None:
        """Add the routes, each also under /sessions/{session}."""
        app = service.app

        @app.post("/v1/messages")
        @app.post("/sessions/{session}/v1/messages")
        async def messages(request: Request, session: str = "") -> Response:
            return await answered(request, MessagesBody, lambda body: self.answer(body, session))

        @app.post("/v1/messages/count_tokens")
        @app.post("/sessions/{session}/v1/messages/count_tokens")
        async def count(request: Request, session: str = "") -> Response:
            return await answered(request, CountBody, lambda body: self.count(body, session))

    async def answer(self, body: MessagesBody, session: str) -> Response:
        """One message. Programs of this protocol name a model of its maker; the fleet has one policy, which answers."""
        (said,) = await self._conversations.answers(self._ask(body), session)
        message = self._message(said)
        return events(_stream(message)) if body.stream else answer(message)

    async def count(self, body: CountBody, session: str) -> Response:
        """Tokens of the prompt."""
        ask = self._ask(body)
        try:
            prompt = self._conversations.prompt(plain_messages(ask.messages), ask, session)
        except MessageError as error:
            raise ProblemError("invalid-messages", str(error), status=422) from None
        return answer({"input_tokens": len(prompt)})

    def _ask(self, body: MessagesBody) -> Ask:
        for name, neutral in _NEUTRAL.items():
            value = (body.model_extra or {}).get(name)
            if value is not None and value not in neutral:
                raise ProblemError("unsupported", f"{name}: {value!r} is not supported", status=422)
        system = _texts(body.system, "system")
        messages = [{"role": "system", "content": system}] if system else []
        for index, message in enumerate(body.messages):
            messages += _openai_messages(message, f"messages.{index}")
        choice = body.tool_choice.get("type", "auto")
        forced = {"any": "required", "tool": {"type": "function", "function": {"name": body.tool_choice.get("name")}}}
        return Ask(
            messages,
            Sampling(body.max_tokens, body.temperature, body.top_p, stop=body.stop_sequences),
            [_tool(tool, f"tools.{index}") for index, tool in enumerate(body.tools)],
            forced.get(choice, choice),
            not body.tool_choice.get("disable_parallel_tool_use", False),
        )

    def _message(self, said: Answer) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        if said.message.get("reasoning_content"):
            content.append({"type": "thinking", "thinking": said.message["reasoning_content"], "signature": ""})
        if said.message.get("content"):
            content.append({"type": "text", "text": said.message["content"]})
        for call in said.message.get("tool_calls", ()):
            name, arguments = call["function"]["name"], _object(call["function"]["arguments"])
            content.append({"type": "tool_use", "id": call["id"], "name": name, "input": arguments})
        return {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": self._served_name,
            "content": content,
            "stop_reason": _REASONS[said.reason],
            "stop_sequence": None,
            "usage": {"input_tokens": len(said.prompt), "output_tokens": len(said.result.token_ids)},
        }


def _openai_messages(message: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    """One message of theirs: its tool results are messages of their own in OpenAI's form."""
    content = message.get("content")
    if isinstance(content, str):
        return [{"role": message.get("role"), "content": content}]
    if not isinstance(content, list):
        raise ProblemError("invalid-messages", f"{place}.content: must be a text or a list of blocks", status=422)
    told: list[dict[str, Any]] = []
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for index, block in enumerate(content):
        where = f"{place}.content.{index}"
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "text":
            texts.append(str(block.get("text", "")))
        elif kind == "tool_use":
            function = {"name": block.get("name"), "arguments": json.dumps(block.get("input") or {})}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            result = _texts(block.get("content") or "", f"{where}.content")
            told.append({"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": result})
        elif kind == "thinking":
            thoughts.append(str(block.get("thinking", "")))
        elif kind != "redacted_thinking":
            raise ProblemError("invalid-messages", f"{where}.type: {kind!r} is not supported", status=422)
    if texts or calls or not told:
        own: dict[str, Any] = {"role": message.get("role"), "content": "\n".join(texts)}
        if calls:
            own["tool_calls"] = calls
        if thoughts:
            own["reasoning_content"] = "\n".join(thoughts)
        told.append(own)
    return told


def _texts(content: Any, place: str) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else [content]
    for index, part in enumerate(parts):
        if not isinstance(part, Mapping) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, Mapping) else part
            raise ProblemError("invalid-messages", f"{place}.{index}.type: {kind!r} is not supported", status=422)
    return "\n".join(str(part.get("text", "")) for part in parts)


def _tool(tool: Mapping[str, Any], place: str) -> dict[str, Any]:
    if not isinstance(tool.get("name"), str) or not isinstance(tool.get("input_schema"), Mapping):
        raise ProblemError("invalid-tools", f"{place}: must have a name and an input_schema", status=422)
    function = {"name": tool["name"], "description": tool.get("description", ""), "parameters": tool["input_schema"]}
    return {"type": "function", "function": function}


def _object(arguments: str) -> dict[str, Any]:
    try:
        value = json.loads(arguments)
    except ValueError:
        value = None
    # The policy may have written anything; the protocol has no other place for it than an object.
    return value if isinstance(value, dict) else {"arguments": arguments}


def _stream(message: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The message as the protocol's events."""
    usage = message["usage"]
    begun = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 0}}
    yield "message_start", {"type": "message_start", "message": begun}
    for index, block in enumerate(message["content"]):
        empty, deltas = _deltas(block)
        yield "content_block_start", {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield "content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta}
        yield "content_block_stop", {"type": "content_block_stop", "index": index}
    ended = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield "message_delta", {"type": "message_delta", "delta": ended, "usage": usage}
    yield "message_stop", {"type": "message_stop"}


def _deltas(block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if block["type"] == "tool_use":
        delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        return {**block, "input": {}}, [delta]
    kind = block["type"]
    return {**block, kind: ""}, [{"type": f"{kind}_delta", kind: block[kind]}]
