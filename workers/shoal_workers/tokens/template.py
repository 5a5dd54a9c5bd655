"""A model's chat template: messages to text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox

ChatMessage = Mapping[str, Any]
RESERVED_VARIABLES = frozenset({"messages", "add_generation_prompt", "tools"})
"""Template variables that whoever renders sets; others are the model's own switches, such as `enable_thinking`."""


class TemplateError(ValueError):
    """The chat template is missing, wrong, or cannot be continued token by token."""


class ChatTemplate:
    """A Jinja chat template with the variables that model publishers rely on.

    The dialect (trimmed blocks, `raise_exception`, `strftime_now`, `tojson` without HTML escapes) is the one of Hugging
    Face's "Chat templates" documentation, because templates are written against it.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise TemplateError(f"chat template: {error}") from None
        self._variables = dict(special_tokens or {})

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> ChatTemplate | None:
        """The template in a model's folder: `chat_template.jinja`, else the one in the tokeniser's configuration."""
        file = folder / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.exists() else config.get("chat_template")
        if isinstance(source, list):
            source = next((entry["template"] for entry in source if entry.get("name") == "default"), None)
        return cls(source, special_tokens(config)) if source else None

    def render(self, messages: Sequence[ChatMessage], add_generation_prompt: bool = False, **variables: Any) -> str:
        """The conversation as text; raises TemplateError with the template's own complaint."""
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **{**self._variables, **variables}
            )
        except (jinja2.TemplateError, TypeError, AttributeError) as error:
            raise TemplateError(f"chat template: {error}") from None


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and the like from a tokeniser's configuration, where each is text or an object with `content`."""
    found = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, Mapping) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
