"""OpenAI's messages as templates take them: beside transformers on the same conversation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from shoal_workers.tokens import ChatTokenizer
from shoal_workers.tokens.messages import MessageError, identity, plain_messages
from tests.models import write_tokenizer

HEAD = "{% for m in messages %}"
TAIL = "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|> assistant ' }}{% endif %}"
TEMPLATES = {
    "guarded": "{% set c = m.content if m.content is string else '' %}"
    "{{ '<|im_start|> ' + m.role + ' ' + c + ' <|im_end|> ' }}",
    "printed": "<|im_start|> {{ m.role }} {{ m.content }} <|im_end|> ",
    "added": "{{ '<|im_start|> ' + m.role + ' ' + m.content + ' <|im_end|> ' }}",
    "calls": "{{ '<|im_start|> ' + m.role + ' ' + m.content }}"
    "{% for c in m.tool_calls or () %}{{ ' ' + c.function.name }}"
    "{% for k, v in c.function.arguments.items() %}{{ ' ' + k + ' ' + v }}{% endfor %}{% endfor %}{{ ' <|im_end|> ' }}",
}
CALL = {"id": "1", "type": "function", "function": {"name": "go", "arguments": '{"north": "up"}'}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "developer", "content": "left"},
    {"role": "user", "content": [{"type": "text", "text": "go north"}], "name": None},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None},
    {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "state 7"}]},
    {"role": "assistant", "content": "right", "tool_calls": None},
    {"role": "user", "content": "down"},
]
# The same conversation as transformers documents it for templates.
DOCUMENTED: list[dict[str, Any]] = [
    {"role": "system", "content": "left"},
    {"role": "user", "content": "go north"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "go", "arguments": {"north": "up"}}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "state 7"},
    {"role": "assistant", "content": "right"},
    {"role": "user", "content": "down"},
]


@pytest.mark.parametrize("kind", TEMPLATES)
def test_the_prompt_is_transformers_token_for_token(tmp_path: Path, kind: str) -> None:
    write_tokenizer(tmp_path, HEAD + TEMPLATES[kind] + TAIL)
    reference = AutoTokenizer.from_pretrained(tmp_path)
    expected = reference.apply_chat_template(DOCUMENTED, add_generation_prompt=True, tokenize=True)
    expected = list(expected["input_ids"] if hasattr(expected, "keys") else expected)
    assert ChatTokenizer(tmp_path).render(plain_messages(MESSAGES), True) == expected


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "user", "content": None}, r"messages\.0\.content: null"),
        ({"content": "x"}, r"messages\.0\.role"),
        ("x", r"messages\.0: must be an object"),
        ({"role": "user", "content": 3}, r"messages\.0\.content: must be a text or a list"),
        ({"role": "user", "content": [{"type": "image_url"}]}, r"content\.0\.type: 'image_url' is not supported"),
        ({"role": "user", "content": [{"type": "text", "text": None}]}, r"content\.0\.text"),
        ({"role": "assistant", "tool_calls": [{"id": "x"}]}, r"tool_calls\.0\.function\.name"),
    ],
)
def test_what_no_template_can_be_given_is_refused_by_place(message: Any, reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        plain_messages([message])


def test_arguments_that_are_no_json_stay_what_the_policy_wrote() -> None:
    call = {"function": {"name": "go", "arguments": "{north"}}
    (plain,) = plain_messages([{"role": "assistant", "tool_calls": [call]}])
    assert plain["tool_calls"][0]["function"]["arguments"] == "{north"
    assert identity(plain) != identity({**plain, "tool_calls": [{"function": {"name": "go", "arguments": "{}"}}]})
