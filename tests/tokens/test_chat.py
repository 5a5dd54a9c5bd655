"""Chat rendering without a deep-learning library, and its continuation without re-tokenising."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_workers.tokens import ChatTokenizer, TemplateError
from tests.models import IM_END, IM_START, VOCABULARY, WORDS, write_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
DROPS_OLD_THINKING = (
    "{% for m in messages %}<|im_start|> {{ m.role }} {% if m.role == 'assistant' and not loop.last %}north"
    "{% else %}{{ m.content }}{% endif %} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
COUNTS_MESSAGES = (
    "{{ messages|length }} {% for m in messages %}<|im_start|> {{ m.role }} {{ m.content }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
WITH_VARIABLES = (
    "{% if tools %}<|im_start|> system {{ tools|length }} <|im_end|> {% endif %}"
    "{% for m in messages %}<|im_start|> {{ m.role }} {{ m.content }} <|im_end|> "
    "{% if nosy and 'beta' in m.content %}up {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% if enable_thinking is false %}goal {% endif %}{% endif %}"
)
DEPENDS_ON_TEXT = (
    "{% for m in messages %}<|im_start|> {{ m.role }} {{ m.content }} <|im_end|> "
    "{% if 'beta' in m.content %}up {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return ChatTokenizer(folder)


def ids(text: str) -> list[int]:
    return [VOCABULARY[word] for word in text.split()]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_first_prompt(tokenizer: ChatTokenizer) -> None:
    assert tokenizer.render([user("state 7")]) == ids("<|im_start|> user state 7 <|im_end|> <|im_start|> assistant")
    assert tokenizer.stop_token_ids == (IM_END,)


def test_continues_a_finished_turn(tokenizer: ChatTokenizer) -> None:
    tokens = [*tokenizer.render([user("state 7")]), *ids("left <|im_end|>")]
    assert tokenizer.continuation(tokens, [user("state 3")]) == ids(
        "<|im_start|> user state 3 <|im_end|> <|im_start|> assistant"
    )


def test_closes_a_turn_that_the_token_limit_cut_off(tokenizer: ChatTokenizer) -> None:
    tokens = [*tokenizer.render([user("state 7")]), *ids("left left left")]
    assert tokenizer.continuation(tokens, [user("state 3")])[0] == IM_END


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(WORDS), st.integers(0, 37)), min_size=1, max_size=6))
def test_incremental_equals_whole_rendering(tokenizer: ChatTokenizer, turns: list[tuple[str, int]]) -> None:
    messages: list[dict[str, str]] = [user("state 0")]
    tokens = tokenizer.render(messages)
    for word, state in turns:
        tokens += [VOCABULARY[word], IM_END]
        messages += [{"role": "assistant", "content": word}, user(f"state {state}")]
        tokens += tokenizer.continuation(tokens, messages[-1:])
    assert tokens == tokenizer.render(messages)


def test_never_tokenises_generated_text_again(tokenizer: ChatTokenizer) -> None:
    """Ids that no text would give stay as they are: only what is appended comes from the tokeniser."""
    impossible = [IM_START, IM_START, 0, 0, 4]
    delta = tokenizer.continuation(impossible, [user("state 3")])
    assert delta == ids("<|im_end|> <|im_start|> user state 3 <|im_end|> <|im_start|> assistant")


@pytest.mark.parametrize("template", [COUNTS_MESSAGES, DEPENDS_ON_TEXT, DROPS_OLD_THINKING])
def test_refuses_templates_that_rewrite_the_past(tmp_path: Path, template: str) -> None:
    write_tokenizer(tmp_path, template)
    with pytest.raises(TemplateError, match="chat template"):
        ChatTokenizer(tmp_path).continuation([1], [user("state 3")])


def test_a_continuation_keeps_the_templates_variables(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, WITH_VARIABLES)
    tokenizer = ChatTokenizer(tmp_path)
    variables = {"tools": [{"name": "walk"}], "enable_thinking": False}
    first = tokenizer.render([user("state 7")], **variables)
    assert first == ids(
        "<|im_start|> system 1 <|im_end|> <|im_start|> user state 7 <|im_end|> <|im_start|> assistant goal"
    )
    after = tokenizer.continuation([*first, *ids("left <|im_end|>")], [user("state 3")], **variables)
    assert after == ids("<|im_start|> user state 3 <|im_end|> <|im_start|> assistant goal")
    assert tokenizer.continuation([IM_END], [user("state 3")]) == after[:-1]


def test_whether_a_template_rewrites_the_past_is_asked_for_every_set_of_variables(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, WITH_VARIABLES)
    tokenizer = ChatTokenizer(tmp_path)
    tokenizer.continuation([1], [user("state 3")])
    tokenizer.continuation([1], [user("state 3")], nosy=False)
    for _ in range(2):
        with pytest.raises(TemplateError, match="prefix-stable"):
            tokenizer.continuation([1], [user("state 3")], nosy=True)


def test_what_was_checked_is_remembered_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tokenizer(tmp_path)
    monkeypatch.setattr("shoal_workers.tokens.chat._MOST_CHECKED", 3)
    tokenizer = ChatTokenizer(tmp_path)
    for number in range(10):
        tokenizer.continuation([1], [user("state 3")], now=number)
        assert len(tokenizer._stable) <= 3


def test_chatml_keeps_its_newline(tmp_path: Path) -> None:
    """ChatML's newline after the end token is not generated by the policy, and must be added for it."""
    write_tokenizer(tmp_path, CHATML)
    tokenizer = ChatTokenizer(tmp_path)
    text = tokenizer._after_placeholder([user("x")], "qvzxplaceholderalpha", {})
    assert text == "<|im_end|>\n<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"


def test_template_file_wins_and_special_tokens_are_variables(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }} {{ messages[0].content }} {{ eos_token }}")
    assert ChatTokenizer(tmp_path).render([user("up")]) == ids("<bos> up <|im_end|>")


def test_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        ChatTokenizer(tmp_path)
    write_tokenizer(tmp_path, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(TemplateError, match="roles must alternate"):
        ChatTokenizer(tmp_path).render([user("up")])
    write_tokenizer(tmp_path, "{% if %}")
    with pytest.raises(TemplateError):
        ChatTokenizer(tmp_path)
    settings_file = tmp_path / "tokenizer_config.json"
    settings_file.write_text(json.dumps({}))
    with pytest.raises(TemplateError, match="no chat template"):
        ChatTokenizer(tmp_path).render([user("up")])


def test_stays_small() -> None:
    """Agents hold it in every process: neither torch nor transformers may come with it, nor 80 MB."""
    program = (
        "import sys, shoal_workers.tokens;"
        "assert not {'torch', 'transformers', 'vllm', 'numpy'} & set(sys.modules), 'heavy import';"
        "print(open('/proc/self/status').read().split('VmRSS:')[1].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 80 * 1024
