"""Reads manifests, and changes single fields of them (`--set`)."""

from pathlib import Path
from typing import Any

import yaml

from shoal.cli.errors import UserError
from shoal.cli.yamls import DuplicateKeyError, load_all

Json = dict[str, Any]


def read_manifests(paths: tuple[Path, ...]) -> list[Json]:
    """Every document of every file, in order; a folder stands for all .yaml, .yml and .json files in it.

    Raises `UserError` for a file that cannot be read or lacks objects with apiVersion, kind and metadata.name.
    """
    documents: list[Json] = []
    for path in paths:
        files = (
            sorted(each for each in path.rglob("*") if each.suffix in (".yaml", ".yml", ".json"))
            if path.is_dir()
            else [path]
        )
        for file in files:
            documents += _read(file)
    if not documents:
        raise UserError(f"no manifest in {', '.join(map(str, paths))}")
    return documents


def _read(file: Path) -> list[Json]:
    try:
        parsed = load_all(file.read_text())
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not a text file") from error
    except DuplicateKeyError as error:
        raise UserError(f"{file}: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not YAML: {error}") from error
    for number, document in enumerate(parsed, 1):
        check_identity(document, f"{file}: document {number}")
    return parsed


def check_identity(document: Any, place: str) -> None:
    """Raises `UserError`, which begins with `place`, for what does not say which object it is."""
    if not isinstance(document, dict):
        raise UserError(f"{place} is not an object")
    for field in ("apiVersion", "kind"):
        if not isinstance(document.get(field), str):
            raise UserError(f"{place}: {field} is missing, or no text")
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise UserError(f"{place}: metadata.name is missing, or no text")


def set_field(document: Json, assignment: str) -> None:
    """Set one field by its path: `spec.trainer.steps=20`, the value in YAML.

    Raises `UserError` for a path that leads nowhere.
    """
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise UserError(f"--set {assignment}: expected PATH=VALUE, such as spec.trainer.steps=20")
    *parents, last = path.split(".")
    target: Any = document
    for part in parents:
        target = _step(target, part, assignment)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {assignment}: not YAML: {error}") from error
    if isinstance(target, list):
        target[_index(target, last, assignment)] = value
    elif isinstance(target, dict):
        target[last] = value
    else:
        raise UserError(f"--set {assignment}: {'.'.join(parents)} is not an object")


def _step(target: Any, part: str, assignment: str) -> Any:
    if isinstance(target, list):
        return target[_index(target, part, assignment)]
    if isinstance(target, dict):
        return target.setdefault(part, {})
    raise UserError(f"--set {assignment}: {part} is below a plain value")


def _index(target: list[Any], part: str, assignment: str) -> int:
    if not part.isdigit() or int(part) >= len(target):
        raise UserError(f"--set {assignment}: {part} is not an index of a list of {len(target)}")
    return int(part)
