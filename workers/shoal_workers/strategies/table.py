"""The table of built-in strategies and their parameters: `python -m shoal_workers.strategies.table [--check]`.

The control plane imports no strategy, so it reads names and parameters' schemas from a file that this writes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "operator" / "shoal" / "api" / "strategies.json"
_KEPT = ("type", "enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "anyOf", "items")


def make() -> dict[str, dict[str, Any]]:
    """Group -> name -> parameter -> JSON schema; groups and names as pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {name: points for name, points in project["entry-points"].items() if name.startswith("shoal.")}
    return {
        group: {name: _parameters(EntryPoint(name, value, group).load()) for name, value in sorted(points.items())}
        for group, points in sorted(groups.items())
    }


def text() -> str:
    """The file's content."""
    return json.dumps(make(), indent=1, sort_keys=True) + "\n"


def _parameters(strategy: Any) -> dict[str, Any]:
    properties: dict[str, Any] = strategy.model_json_schema(by_alias=True).get("properties", {})
    return {name: {key: value for key, value in each.items() if key in _KEPT} for name, each in properties.items()}


def main() -> None:
    """Write the file, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the file is up to date")
    if not parser.parse_args().check:
        FILE.write_text(text())
    elif FILE.read_text() != text():
        sys.exit(f"{FILE} differs from the strategies; run python -m shoal_workers.strategies.table")


if __name__ == "__main__":
    main()
