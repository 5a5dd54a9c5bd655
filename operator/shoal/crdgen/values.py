"""The table of values in the chart's README, from the comments in its `values.yaml`.

A comment that begins with `# --`, and the comment lines right after it, describe the key below them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"
_KEY = re.compile(r"^( *)([A-Za-z0-9_]+):")
_COMMENT = re.compile(r"^ *# ?(-- )?(.*)$")


def readme(chart: Path) -> str:
    """The README with the table as the values are now. Raises ValueError when it has no place for the table."""
    text = (chart / "README.md").read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{chart / 'README.md'} lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{table((chart / 'values.yaml').read_text())}{END}{after}"


def table(values: str) -> str:
    """A row for each key that is described: key, default, description."""
    loaded = yaml.safe_load(values)
    rows = [f"| `{path}` | `{_default(loaded, path)}` | {text} |" for path, text in described(values)]
    return "\n".join(["| value | default | what it does |", "|---|---|---|", *rows, ""])


def described(values: str) -> Iterator[tuple[str, str]]:
    """Path of every key with a description, and that."""
    path: list[tuple[int, str]] = []
    words: list[str] = []
    for line in values.splitlines():
        comment, key = _COMMENT.match(line), _KEY.match(line)
        if comment and (comment[1] or words):
            words = [*([] if comment[1] else words), comment[2]]
        elif key:
            depth = len(key[1])
            path = [*(part for part in path if part[0] < depth), (depth, key[2])]
            if words:
                yield ".".join(name for _, name in path), " ".join(words)
            words = []


def _default(values: Any, path: str) -> str:
    for part in path.split("."):
        values = values[part]
    return json.dumps(values)
