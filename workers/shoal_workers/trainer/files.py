"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 1 << 20
SKIPPED_KEPT = 5
"""Enough to see what they share; a run that skips many must not fill its volume with them."""


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `target` when the block ends well, and vanishes otherwise.

    What an earlier process that was killed left half-written is removed. Everything is on the disk before it is moved.
    """
    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in temporary.rglob("*"):
            _synchronize(path)
        _synchronize(temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
        _synchronize(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_file(target: Path, content: bytes) -> None:
    """Write a file in one step: a reader sees the old content or the new."""
    temporary = target.with_name(f".{target.name}.partial")
    temporary.write_bytes(content)
    _synchronize(temporary)
    temporary.replace(target)
    _synchronize(target.parent)


def keep_skipped(path: Path, body: bytes) -> None:
    """Keep what a step could not learn from, and remove all but the newest few."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, body)
    for old in sorted(path.parent.glob("*.batch"), key=lambda each: each.stat().st_mtime)[:-SKIPPED_KEPT]:
        old.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The file's digest, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def numbered(folder: Path) -> list[int]:
    """The numbers that folders in `folder` are named by, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def _synchronize(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
