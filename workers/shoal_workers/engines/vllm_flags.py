"""A first look at the user's vLLM arguments, from vLLM's source text: importing it takes seconds of processor time.

vLLM's own parser has the last word later; this only lets a misspelt name be told at once.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from shoal_workers.service import ConfigurationError

_LITERAL = re.compile(r"\"(--[a-z][\w-]*)\"")
_ENOUGH = 50
"""vLLM has hundreds of arguments. A source with fewer is not written as it was, and its text proves nothing."""


def check_arguments(args: Sequence[str]) -> None:
    """Raise ConfigurationError for an argument that vLLM cannot have; does nothing where its source is not found."""
    known = known_flags()
    if len(known) < _ENOUGH:
        return
    for position, arg in enumerate(args):
        if arg.startswith("--") and not _is_known(arg, known):
            raise ConfigurationError(f"SHOAL_CONFIG.args.{position}", f"vLLM has no argument {arg.partition('=')[0]}")


def known_flags() -> frozenset[str]:
    """Long options in the text of the installed vLLM's argument parser; empty where there is none."""
    spec = importlib.util.find_spec("vllm")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        source = Path(folder, "engine", "arg_utils.py")
        if source.is_file():
            return frozenset(_LITERAL.findall(source.read_text(encoding="utf-8")))
    return frozenset()


def _is_known(arg: str, known: frozenset[str]) -> bool:
    """As vLLM reads it: underscores are dashes, `--no-` negates, `--name.key` sets inside, a clear prefix will do."""
    name = arg.partition("=")[0].replace("_", "-").partition(".")[0].removesuffix("+")
    return any(flag.startswith((name, "--" + name.removeprefix("--no-"))) for flag in known)
