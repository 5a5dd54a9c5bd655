"""The kubectl command lines of the documentation: of its code blocks, and between backquotes."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("docs/conformance.md", "docs/reference/api.md", "docs/control-plane.md")
"""Pages that name commands without telling anybody to run them."""
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^(?: {4}|\t).*$", re.MULTILINE)
_QUOTED = re.compile(r"`([^`\n]*\bkubectl [^`\n]*)`")


@dataclass(frozen=True)
class Line:
    """A command line and the page that it is on; `piped` is the command whose output it reads."""

    page: str
    text: str
    piped: str = ""


def lines() -> list[Line]:
    """Every one, once, in the order of the pages."""
    folders = ("docs", "examples", "operator/shoal/neighbours")
    pages = [ROOT / "README.md", *(page for each in folders for page in sorted((ROOT / each).rglob("*.md")))]
    names = [(each, str(each.relative_to(ROOT))) for each in pages]
    found = [line for path, name in names if name not in GENERATED for line in _of(path.read_text(), name)]
    return list({line.text: line for line in reversed(found)}.values())[::-1]


def _of(text: str, page: str) -> list[Line]:
    blocks = [block for pattern in (_FENCE, _INDENTED) for block in pattern.findall(text)]
    commands = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    commands += _QUOTED.findall(_FENCE.sub("", text))
    return [line for each in commands if (line := _line(each, page)) is not None]


def _line(command: str, page: str) -> Line | None:
    command = command.removeprefix("$ ").partition(" #")[0].strip()
    before, found, after = command.rpartition("kubectl ")
    if not found or "…" in command or "<<" in after:
        return None
    if before and not before.rstrip().endswith("|"):
        return None
    return Line(page, re.sub(r"\s+", " ", after).strip(), before.rstrip().rstrip("|").strip())
