"""Other makers' clients against the gateway: what they send, and what they can read of the answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shoal.api.services.models import (
    ParsedAnswer,
    ParsedCall,
    ParseRequest,
    SamplingParameters,
    SessionRecord,
    SessionSettings,
)
from shoal.api.services.tree import full_tokens
from tests.engines.fakes import FakeCore
from tests.gateway.fleets import TOKEN, Fleet, fleet
from tests.models import write_tokenizer

openai = pytest.importorskip("openai", reason="the openai package is not installed")
anthropic = pytest.importorskip("anthropic", reason="the anthropic package is not installed")

TOOL = {"name": "go", "description": "moves", "parameters": {"type": "object", "properties": {"way": {}}}}
TOOLS = [{"type": "function", "function": TOOL}]
TEMPLATE = (
    "{% if tools %}{{ '<|im_start|> system go <|im_end|> ' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|> ' + m['role'] + ' ' + m['content'] }}"
    "{% for c in m['tool_calls'] or () %}{{ ' ' + c.function.name }}{% endfor %}{{ ' <|im_end|> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|> assistant ' }}{% endif %}"
)


class ParsingCore(FakeCore):
    """Every answer with tools is two calls, after a thought; others are their text."""

    @property
    def parsers(self) -> list[str]:
        return ["tools"]

    def parse(self, request: ParseRequest) -> ParsedAnswer:
        assert request.tools == TOOLS
        calls = [ParsedCall(id=f"c{way}", name="go", arguments=f'{{"way": "{way}"}}') for way in ("up", "left")]
        return ParsedAnswer(content=None, reasoning="hm", tool_calls=calls)


@asynccontextmanager
async def face(folder: Path) -> AsyncIterator[Fleet]:
    """A fleet with such an engine, and an open session `s`."""
    write_tokenizer(folder, TEMPLATE)
    async with fleet(model=str(folder)) as running:
        await running.add("a", ParsingCore())
        settings = SessionSettings(sampling=SamplingParameters(max_tokens=4))
        await running.client.call("PUT", "/sessions/s", settings)
        await running.until(lambda status: any(engine.routed for engine in status.engines))
        yield running


def chat_client(running: Fleet, session: str = "s") -> Any:
    return openai.AsyncOpenAI(base_url=f"{running.url}/sessions/{session}/v1", api_key=TOKEN, max_retries=0)


async def test_tool_calls_and_their_results_keep_the_exact_tokens(tmp_path: Path) -> None:
    async with face(tmp_path) as running, chat_client(running) as client:
        messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "state 7"}]}]
        for choice in ("auto", "required", {"type": "function", "function": {"name": "go"}}):
            said = await client.chat.completions.create(
                model="policy", messages=messages, tools=TOOLS, tool_choice=choice, temperature=None, n=None
            )
            (first,) = said.choices
            assert first.finish_reason == "length"
            assert [call.function.name for call in first.message.tool_calls] == ["go", "go"]
            assert first.message.content is None
        # As frameworks write it down again: null content, arguments anew, the thought gone.
        again = [json.dumps(json.loads(call.function.arguments), indent=1) for call in first.message.tool_calls]
        calls = [
            {"id": call.id, "type": "function", "function": {"name": "go", "arguments": arguments}}
            for call, arguments in zip(first.message.tool_calls, again, strict=True)
        ]
        messages += [
            {"role": "assistant", "content": None, "tool_calls": calls},
            *({"role": "tool", "tool_call_id": c["id"], "content": [{"type": "text", "text": "down"}]} for c in calls),
        ]
        later = await client.chat.completions.create(
            model="policy", messages=messages, tools=TOOLS, parallel_tool_calls=False
        )
        assert len(later.choices[0].message.tool_calls) == 1
        before = [*said.prompt_token_ids, *first.token_ids]
        assert later.prompt_token_ids[: len(before)] == before
        record = await running.client.get("/sessions/s", SessionRecord)
        # Three answers to one question are branches of it; the last one went on.
        assert [(s.parent, s.shared) for s in record.segments] == [
            (None, 0),
            (0, len(said.prompt_token_ids)),
            (0, len(said.prompt_token_ids)),
        ]
        assert sum(sum(segment.loss_mask) for segment in record.segments) == 16
        assert full_tokens(record.segments, 2)[: len(before)] == before


async def test_streams_are_the_answer_in_pieces(tmp_path: Path) -> None:
    async with face(tmp_path) as running, chat_client(running) as client:
        asked: dict[str, Any] = {"model": "policy", "messages": [{"role": "user", "content": "state 7"}]}
        whole = await client.chat.completions.create(**asked)
        stream = await client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage == whole.usage
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
        stream = await client.chat.completions.create(**asked, tools=TOOLS, stream=True)
        deltas = [chunk.choices[0].delta async for chunk in stream]
        calls = [call for delta in deltas for call in delta.tool_calls or ()]
        assert [(call.index, call.function.arguments) for call in calls] == [
            (0, '{"way": "up"}'),
            (1, '{"way": "left"}'),
        ]


async def test_several_answers_and_stop_texts(tmp_path: Path) -> None:
    async with face(tmp_path) as running, chat_client(running) as client:
        messages = [{"role": "user", "content": "state 7"}]
        whole = await client.chat.completions.create(model="policy", messages=messages)
        words = whole.choices[0].message.content.split()
        stop = " ".join(words[1:3])
        several = await client.chat.completions.create(model="policy", messages=messages, n=3, stop=[stop, "nowhere"])
        assert [choice.index for choice in several.choices] == [0, 1, 2]
        for choice in several.choices:
            assert (choice.message.content.split(), choice.finish_reason) == (words[:1], "stop")
            assert choice.token_ids == whole.choices[0].token_ids[:3]
            assert len(choice.logprobs.content) == 3
            assert choice.weight_versions[-1]["end"] == 3
        assert several.usage.completion_tokens == 9
        texts = await client.completions.create(model="policy", prompt=["state 7", "left"], n=2)
        assert [choice.index for choice in texts.choices] == [0, 1, 2, 3]


async def test_errors_are_what_each_client_raises(tmp_path: Path) -> None:
    async with face(tmp_path) as running:
        async with chat_client(running) as client:
            with pytest.raises(openai.NotFoundError, match="not 'policy'") as unknown:
                await client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "x"}])
            assert unknown.value.code == "unknown-model"
            with pytest.raises(openai.NotFoundError):
                await client.embeddings.create(model="policy", input="x")
            image = {"type": "image_url", "image_url": {"url": "data:,"}}
            with pytest.raises(openai.UnprocessableEntityError, match=r"messages\.0\.content\.0\.type: 'image_url'"):
                await client.chat.completions.create(model="policy", messages=[{"role": "user", "content": [image]}])
            with pytest.raises(openai.UnprocessableEntityError, match=r"messages\.0\.content: null"):
                await client.chat.completions.create(model="policy", messages=[{"role": "user", "content": None}])
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="wrong", max_retries=0) as stranger:
            with pytest.raises(openai.AuthenticationError, match="bearer token"):
                await stranger.models.list()
        async with anthropic.AsyncAnthropic(base_url=running.url, api_key="wrong", max_retries=0) as stranger:
            with pytest.raises(anthropic.AuthenticationError) as refused:
                await stranger.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}])
            assert refused.value.body["error"]["type"] == "authentication_error"


async def test_anthropics_client_has_tools_and_streams_in_a_session(tmp_path: Path) -> None:
    async with face(tmp_path) as running:
        base = f"{running.url}/sessions/s"
        async with anthropic.AsyncAnthropic(base_url=base, api_key=TOKEN, max_retries=0) as client:
            asked: dict[str, Any] = {
                "model": "any-model",
                "max_tokens": 4,
                "system": [{"type": "text", "text": "go", "cache_control": {"type": "ephemeral"}}],
                "tools": [{"name": "go", "description": "moves", "input_schema": TOOL["parameters"]}],
            }
            messages: list[Any] = [{"role": "user", "content": "state 7"}]
            said = await client.messages.create(**asked, messages=messages)
            assert [block.type for block in said.content] == ["thinking", "tool_use", "tool_use"]
            assert said.content[1].input == {"way": "up"}
            counted = await client.messages.count_tokens(
                model="m", system=asked["system"], tools=asked["tools"], messages=messages
            )
            assert counted.input_tokens == said.usage.input_tokens
            results = [
                {"type": "tool_result", "tool_use_id": block.id, "content": "down"}
                for block in said.content
                if block.type == "tool_use"
            ]
            kept = [block.model_dump() for block in said.content if block.type == "tool_use"]
            messages += [{"role": "assistant", "content": kept}, {"role": "user", "content": results}]
            async with client.messages.stream(**asked, messages=messages) as stream:
                final = await stream.get_final_message()
            assert [block.type for block in final.content] == ["thinking", "tool_use", "tool_use"]
            assert final.content[2].input == {"way": "left"}
            image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
            with pytest.raises(anthropic.UnprocessableEntityError, match="image"):
                await client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": [image]}])
        record = await running.client.get("/sessions/s", SessionRecord)
        assert (record.calls, len(record.segments)) == (2, 1)
        assert sum(record.segments[0].loss_mask) == 8


async def test_two_sub_agents_cost_what_is_new_in_them(tmp_path: Path) -> None:
    async with face(tmp_path) as running, chat_client(running) as client:
        agents = [[{"role": "system", "content": f"state {name}"}] for name in (1, 2)]
        whole = 0
        for turn in range(5):
            for history in agents:
                history.append({"role": "user", "content": f"left {turn}"})
                said = await client.chat.completions.create(model="policy", messages=history)
                history.append({"role": "assistant", "content": said.choices[0].message.content + " "})
                if turn == 4:
                    whole += said.usage.total_tokens
        record = await running.client.get("/sessions/s", SessionRecord)
        assert len(record.segments) == 2
        # They begin alike, and that is there once.
        assert sum(len(s.token_ids) for s in record.segments) == whole - record.segments[1].shared < whole
        assert sum(sum(s.loss_mask) for s in record.segments) == 2 * 5 * 4


async def test_tools_that_come_later_are_in_the_prompt(tmp_path: Path) -> None:
    async with face(tmp_path) as running, chat_client(running) as client:
        messages = [{"role": "user", "content": "state 7"}]
        said = await client.chat.completions.create(model="policy", messages=messages)
        messages += [said.choices[0].message.model_dump(), {"role": "user", "content": "left"}]
        later = await client.chat.completions.create(model="policy", messages=messages, tools=TOOLS)
        rendered = running_tokenizer(tmp_path).render(messages, True, tools=TOOLS)
        assert later.prompt_token_ids == rendered


def running_tokenizer(folder: Path) -> Any:
    from shoal_workers.tokens import ChatTokenizer

    return ChatTokenizer(folder)
