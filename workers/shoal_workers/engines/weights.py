"""Checking a published weight version before an engine is touched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from shoal.api.services.models import WeightsTarget

MANIFEST = "manifest.json"


class WeightsError(ValueError):
    """The folder is not the published version: missing, incomplete or altered."""


def check_weights(target: WeightsTarget) -> Path:
    """The version's folder, when it holds what its manifest promises; raises WeightsError.

    The manifest's own SHA-256 must be the published checksum, and every file it lists must be there with its size. The
    contents of large files are not hashed: reading them twice would double the time of an update.
    """
    folder = Path(target.path)
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no such folder")
    if target.checksum:
        _check_manifest(folder / MANIFEST, target.checksum)
    if not any(folder.glob("*.safetensors")):
        raise WeightsError(f"{folder}: holds no .safetensors file")
    return folder


def _check_manifest(file: Path, checksum: str) -> None:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise WeightsError(f"{file}: {error.strerror}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != checksum.removeprefix("sha256:"):
        raise WeightsError(f"{file}: its SHA-256 is {found}, published was {checksum}")
    manifest = json.loads(content)
    files = manifest.get("files", {}) if isinstance(manifest, Mapping) else {}
    for name, entry in files.items() if isinstance(files, Mapping) else ():
        _check_file(file.parent / str(name), entry)


def _check_file(file: Path, entry: object) -> None:
    if not file.is_file():
        raise WeightsError(f"{file}: listed in the manifest but missing")
    size = entry.get("bytes", entry.get("size")) if isinstance(entry, Mapping) else None
    if isinstance(size, int) and file.stat().st_size != size:
        raise WeightsError(f"{file}: has {file.stat().st_size} bytes, the manifest says {size}")
