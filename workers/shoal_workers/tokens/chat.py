"""A model's tokeniser and chat template, read straight from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from shoal_workers.tokens.forged import Shield
from shoal_workers.tokens.template import ChatMessage, ChatTemplate, TemplateError, special_tokens

# Stands for what the policy said. Letters alone, so that no template trims or escapes it; two, to prove independence.
_PLACEHOLDERS = ("qvzxplaceholderalpha", "qvzxplaceholderbeta")
_OPENING: tuple[ChatMessage, ...] = ({"role": "user", "content": "qvzxopening"},)
# Checked combinations that are remembered. Callers choose the variables, and may send others with every call.
_MOST_CHECKED = 1024


class ChatTokenizer:
    """Encodes, decodes and renders conversations; continues one without ever tokenising generated text again.

    Not safe to share between threads while a template renders; each process has its own.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read the tokeniser's files; raises FileNotFoundError or TemplateError naming the file."""
        self.folder = Path(folder)
        file = self.folder / "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; the model's folder must hold a fast tokeniser")
        self._tokenizer = Tokenizer.from_file(str(file))
        self._config = _read_json(self.folder / "tokenizer_config.json")
        self._template = ChatTemplate.load(self.folder, self._config)
        added = self._tokenizer.get_added_tokens_decoder()
        self._shield = Shield({token.content: number for number, token in added.items()}, self.encode)
        self._stable: set[tuple[tuple[str, ...], str]] = set()
        self.stop_token_ids = self._find_stop_tokens()

    @property
    def has_template(self) -> bool:
        """Whether the model has a chat template."""
        return self._template is not None

    @property
    def vocabulary_size(self) -> int:
        """Tokens, special ones included."""
        return int(self._tokenizer.get_vocab_size())

    def token_id(self, token: str) -> int | None:
        """The id of one token, None where the vocabulary lacks it."""
        found = self._tokenizer.token_to_id(token)
        return None if found is None else int(found)

    def encode(self, text: str) -> list[int]:
        """Token ids of text, nothing added in front or behind."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def render(
        self, messages: Sequence[ChatMessage], add_generation_prompt: bool = True, **variables: Any
    ) -> list[int]:
        """Token ids of a conversation; raises TemplateError where the model has no template or it refuses.

        Control tokens that the content of a user's or a tool's message spells are text.
        """
        return self._shield.encode(self._text(self._shield.hide(messages), add_generation_prompt, **variables))

    def continuation(self, token_ids: Sequence[int], messages: Sequence[ChatMessage], **variables: Any) -> list[int]:
        """The tokens to append to `token_ids`, which end with the policy's own, for it to answer `messages` next.

        They close the policy's turn where it did not do so itself (cut off by the token limit), add the messages and
        open its next turn. `variables` are the template's, as for `render`. Raises TemplateError where the template
        would also change what came before.
        """
        if not messages:
            raise TemplateError("no message to continue the conversation with")
        messages = self._shield.hide(messages)
        self._check_stable(messages, variables)
        tail = self._shield.encode(self._after_placeholder(messages, _PLACEHOLDERS[0], variables))
        closed = bool(token_ids) and bool(tail) and token_ids[-1] == tail[0] and token_ids[-1] in self.stop_token_ids
        return tail[1:] if closed else tail

    def _text(self, messages: Sequence[ChatMessage], add_generation_prompt: bool, **variables: Any) -> str:
        if self._template is None:
            raise TemplateError(f"{self.folder}: the model has no chat template")
        return self._template.render(messages, add_generation_prompt, **variables)

    def _after_placeholder(
        self, messages: Sequence[ChatMessage], placeholder: str, variables: Mapping[str, Any]
    ) -> str:
        text = self._text([*_OPENING, {"role": "assistant", "content": placeholder}, *messages], True, **variables)
        before, found, after = text.partition(placeholder)
        if not found or placeholder in after:
            raise TemplateError("chat template: it does not show an assistant's message exactly once")
        prompt = self._text(_OPENING, True, **variables)
        # Where the texts differ by white space alone, their tokens may still be the same, and tokens are what counts.
        if not prompt.startswith(before) and self.encode(prompt) != self.encode(before):
            raise TemplateError(
                "chat template: not prefix-stable, later messages change how the conversation's start is written "
                f"({before!r} instead of {prompt!r})"
            )
        return after

    def _check_stable(self, messages: Sequence[ChatMessage], variables: Mapping[str, Any]) -> None:
        """Once per sequence of roles and variables: what follows the policy's words must not depend on them."""
        roles = tuple(str(message.get("role")) for message in messages)
        case = (roles, json.dumps(variables, sort_keys=True, default=repr))
        if case in self._stable:
            return
        first, second = (self._after_placeholder(messages, placeholder, variables) for placeholder in _PLACEHOLDERS)
        if first != second:
            raise TemplateError("chat template: not prefix-stable, an assistant's text changes what follows it")
        if len(self._stable) >= _MOST_CHECKED:
            self._stable.clear()
        self._stable.add(case)

    def _find_stop_tokens(self) -> tuple[int, ...]:
        """End-of-turn tokens: the tokeniser's and the model's generation configuration's."""
        found: list[int] = []
        eos = special_tokens(self._config).get("eos_token")
        if eos is not None and (token := self.token_id(eos)) is not None:
            found.append(token)
        for name in ("generation_config.json", "config.json"):
            value = _read_json(self.folder / name).get("eos_token_id")
            found += [value] if isinstance(value, int) else list(value or ())
        return tuple(dict.fromkeys(found))


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TemplateError(f"{file}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise TemplateError(f"{file}: not a JSON object")
    return content
