"""OpenAI's messages as chat templates take them, and what makes two messages the same."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

Message = Mapping[str, Any]

_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal"})
_THOUGHT = re.compile(r"\A\s*(?:<think>)?.*?</think>", re.DOTALL)


class MessageError(ValueError):
    """A message that no template can be given; the text names its place and what would be accepted."""


def plain_messages(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """Messages as templates are written for them; raises MessageError.

    Text parts become one text, joined by line ends as `vllm serve` does; absent or null content of an assistant's tool
    call becomes "" (a template that adds texts would refuse it); fields that are null are absent; a tool call's
    arguments become the object that their JSON stands for; `developer` is what open models know as `system`.
    """
    return [_plain(message, f"messages.{index}") for index, message in enumerate(messages)]


def identity(message: Message) -> str:
    """What identifies a message however a program writes it down again.

    Programs drop fields, strip thoughts and white space from what the policy said, send null for empty text, and write
    arguments anew; call ids are theirs to choose.
    """
    content = message.get("content") or ""
    calls = [
        [call["function"].get("name"), _canonical(call["function"].get("arguments"))]
        for call in message.get("tool_calls") or ()
    ]
    if message.get("role") == "assistant":
        content = _THOUGHT.sub("", content).strip()
    return json.dumps([message.get("role"), content, calls], sort_keys=True, ensure_ascii=False)


def _plain(message: Any, place: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise MessageError(f"{place}: must be an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise MessageError(f"{place}.role: must be a text such as user")
    plain = {name: value for name, value in message.items() if value is not None}
    plain["role"] = "system" if role == "developer" else role
    plain["content"] = _text(message.get("content"), role, place)
    if "tool_calls" in plain:
        plain["tool_calls"] = [_call(call, f"{place}.tool_calls.{i}") for i, call in enumerate(plain["tool_calls"])]
        if not plain["tool_calls"]:
            del plain["tool_calls"]
    return plain


def _text(content: Any, role: str, place: str) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        if role != "assistant":
            raise MessageError(f"{place}.content: null is for an assistant's messages alone")
        return ""
    if not isinstance(content, list):
        raise MessageError(f"{place}.content: must be a text or a list of parts")
    return "\n".join(_part(part, f"{place}.content.{index}") for index, part in enumerate(content))


def _part(part: Any, place: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in _TEXT_PARTS:
        raise MessageError(f"{place}.type: {kind!r} is not supported; parts must be text")
    text = part.get("text", part.get("refusal"))
    if not isinstance(text, str):
        raise MessageError(f"{place}.text: must be a text")
    return text


def _call(call: Any, place: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise MessageError(f"{place}.function.name: must be a text")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        # The policy may have written no JSON. Then the template is given what it wrote.
        with suppress(ValueError):
            arguments = json.loads(arguments) if arguments.strip() else {}
    return {**call, "function": {**function, "arguments": arguments}}


def _canonical(arguments: Any) -> str:
    if isinstance(arguments, str):
        text = arguments
        try:
            arguments = json.loads(text) if text.strip() else {}
        except ValueError:
            return text
    return json.dumps(arguments, sort_keys=True)
