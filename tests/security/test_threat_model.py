"""docs/threat-model.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "threat-model.md"
NAMED = sorted(set(re.findall(r"`((?:tests|e2e)/[\w/]+\.py)::(\w+)`", PAGE.read_text())))


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_a_named_test_exists(file: str, test: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_boundary_is_held_by_a_test() -> None:
    table = PAGE.read_text().partition("## Boundaries")[2].partition("## What is not held")[0]
    rows = [
        line for line in table.splitlines() if line.startswith("| ") and not line.startswith(("| boundary", "|---"))
    ]
    assert len(rows) > 10
    assert [row for row in rows if "::test_" not in row] == []
