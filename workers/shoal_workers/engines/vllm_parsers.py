"""Tool calls and reasoning in what the policy said, found by vLLM's own parsers, chosen as `vllm serve` does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from shoal.api.services.models import ParsedAnswer, ParsedCall, ParseRequest
from shoal_workers.engines.core import CoreError


@dataclass(frozen=True, slots=True)
class ParserFlags:
    """What `vllm serve` takes beside the engine's own arguments."""

    tool_parser: str | None = None
    auto_tools: bool = False
    tool_plugin: str = ""


def split_flags(args: Sequence[str]) -> tuple[ParserFlags, list[str]]:
    """The parsers' arguments, and the others, which are the engine's; raises CoreError."""

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise CoreError(f"args: {message}")

    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--enable-auto-tool-choice", action="store_true")
    parser.add_argument("--tool-call-parser")
    parser.add_argument("--tool-parser-plugin", default="")
    known, rest = parser.parse_known_args(list(args))
    if known.enable_auto_tool_choice and not known.tool_call_parser:
        raise CoreError("args: --enable-auto-tool-choice requires --tool-call-parser")
    return ParserFlags(known.tool_call_parser, known.enable_auto_tool_choice, known.tool_parser_plugin), rest


class Parsers:
    """The parser class that vLLM makes of the flags; `kinds` says what it finds."""

    def __init__(self, flags: ParserFlags, engine: Any) -> None:
        """Raises CoreError for a parser that vLLM does not have, or that the tokeniser does not fit."""
        from vllm.parser import ParserManager
        from vllm.tool_parsers import ToolParserManager

        self._config = engine.vllm_config.model_config
        self._tokenizer = engine.get_tokenizer()
        self._auto = flags.auto_tools
        reasoning = engine.vllm_config.structured_outputs_config.reasoning_parser or None
        try:
            if flags.tool_plugin:
                ToolParserManager.import_tool_parser(flags.tool_plugin)
            self._parser: Any = ParserManager.get_parser(
                tool_parser_name=flags.tool_parser,
                reasoning_parser_name=reasoning,
                enable_auto_tools=flags.auto_tools,
                model_name=self._config.model,
                tokenizer=self._tokenizer,
            )
        except (TypeError, ValueError, KeyError) as error:
            raise CoreError(f"args: {error}") from None
        tools = self._parser is not None and self._parser.tool_parser_cls is not None
        self.kinds = [*(["tools"] if tools else []), *(["reasoning"] if reasoning else [])]

    def parse(self, request: ParseRequest) -> ParsedAnswer:
        """What the tokens say; safe in any thread."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.renderers.chat_utils import make_tool_call_id

        asked: dict[str, Any] = {"model": self._config.model, "messages": request.messages}
        if request.tools:
            asked |= {"tools": request.tools, "tool_choice": "auto"}
        call = ChatCompletionRequest.model_validate({**asked, "chat_template_kwargs": request.variables})
        parser = self._parser(
            self._tokenizer, call.tools, chat_template_kwargs=request.variables, model_config=self._config
        )
        call = parser.adjust_request(call)
        text = self._tokenizer.decode(request.token_ids, skip_special_tokens=call.skip_special_tokens)
        parser.set_prompt_token_ids(request.prompt_token_ids)
        reasoning, content, calls = parser.parse(
            text, call, enable_auto_tools=self._auto, model_output_token_ids=request.token_ids
        )
        found = [
            ParsedCall(id=each.id or make_tool_call_id(), name=each.name, arguments=each.arguments)
            for each in calls or ()
        ]
        return ParsedAnswer(content=content, reasoning=reasoning, tool_calls=found)
