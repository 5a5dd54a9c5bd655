"""Turns a project's definitions (YAML, a file or several) into the lines that this folder keeps: no descriptions."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml


def without_descriptions(node: Any) -> Any:
    """The same node without `description` texts; a property that is called `description` stays."""
    if isinstance(node, dict):
        return {
            name: without_descriptions(value)
            for name, value in node.items()
            if not (name == "description" and isinstance(value, str))
        }
    return [without_descriptions(each) for each in node] if isinstance(node, list) else node


def lines(paths: Iterable[Path]) -> Iterator[str]:
    """Each definition as one line of JSON."""
    for path in paths:
        for body in yaml.safe_load_all(path.read_text()):
            if body:
                yield json.dumps(without_descriptions(body), separators=(",", ":"))


if __name__ == "__main__":
    print("\n".join(lines(Path(name) for name in sys.argv[1:])))
