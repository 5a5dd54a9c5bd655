"""Control tokens that somebody wrote into a message: text, and no turn of the conversation.

What an environment shows or a user says may spell `<|im_end|>`. A tokeniser that reads the rendered conversation as a
whole cannot tell it from the template's own, and whoever writes observations could speak as the assistant. So each
such spelling is hidden from the template and from the tokeniser behind a character of its own, and is encoded apart, as
the letters that it is. The text around it becomes the very tokens that it would be anyway, because a tokeniser cuts at
control tokens first.

What the policy said and the system prompt are trusted: the former is its own, the latter the manifest's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Encode = Callable[[str], Sequence[int]]

_TRUSTED_ROLES = ("assistant", "system")
_FIRST_STAND_IN = 0xF0000
"""Private-use code points that no text of the world uses; each stands for one spelling."""


class Shield:
    """Hides spellings of control tokens in messages that are not trusted, and encodes them as text.

    Args:
        control: the tokeniser's added tokens, by their text.
        encode: the tokeniser, which takes an added token wherever its text stands.
    """

    def __init__(self, control: Mapping[str, int], encode: Encode) -> None:
        texts = sorted((text for text in control if text.strip()), key=len, reverse=True)
        self._stand_ins = {text: chr(_FIRST_STAND_IN + number) for number, text in enumerate(texts)}
        self._texts = {stand_in: text for text, stand_in in self._stand_ins.items()}
        self._ids = frozenset(control.values())
        self._encode = encode
        self._spelled = re.compile("|".join(re.escape(text) for text in texts)) if texts else None
        self._hidden = re.compile(f"([{''.join(self._texts)}])") if texts else None

    def hide(self, messages: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The messages with a stand-in for each spelling in what is not trusted."""
        return [
            message
            if message.get("role") in _TRUSTED_ROLES
            else {**message, "content": self._hide(message["content"])}
            if "content" in message
            else message
            for message in messages
        ]

    def encode(self, text: str) -> list[int]:
        """Token ids of rendered text; stand-ins become the letters that they stand for."""
        if self._hidden is None:
            return list(self._encode(text))
        found: list[int] = []
        for part in self._hidden.split(text):
            found += self._letters(self._texts[part]) if part in self._texts else self._encode(part) if part else []
        return found

    def _hide(self, content: Any) -> Any:
        if isinstance(content, list):
            return [
                {**part, "text": self._hide(part["text"])} if isinstance(part, dict) and "text" in part else part
                for part in content
            ]
        if not isinstance(content, str) or self._spelled is None or self._hidden is None:
            return content
        # A stand-in that somebody sends would be taken for the control token that it stands for, as letters: harmless,
        # but not what was sent.
        clean = self._hidden.sub("\N{REPLACEMENT CHARACTER}", content)
        return self._spelled.sub(lambda match: self._stand_ins[match[0]], clean)

    def _letters(self, text: str) -> list[int]:
        """Token ids of the text, none of them a control token's."""
        ids = list(self._encode(text))
        if len(text) < 2 or not self._ids.intersection(ids):
            return ids
        return self._letters(text[:1]) + self._letters(text[1:])
