"""Checking a published weight version before an engine is touched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shoal.api.services.models import FixedPrompt, WeightFile, WeightsManifest, WeightsTarget
from shoal_workers.engines.tensors import (
    TensorEntry,
    TensorsError,
    check_finite,
    check_tensors,
    optional_names,
    tensors_of,
)

MANIFEST = "manifest.json"


class WeightsError(ValueError):
    """The folder is not the published version, or not of this model: missing, incomplete, altered or unusable."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version that may be loaded: its folder, and the log-probs that prove it where its publisher gave some."""

    folder: Path
    fixed_prompt: FixedPrompt | None = None


@dataclass(frozen=True, slots=True)
class _Original:
    tensors: Mapping[str, TensorEntry]
    optional: list[str]


class Verifier:
    """Checks versions against their manifest and against the model (a folder, or a hub name that has been fetched).

    Every byte is read: a file of the right size can hold anything, and what an engine serves is what gets trained on.
    It costs a reading of the files, beside serving; the load that follows finds them in the machine's memory.
    """

    def __init__(self, model: str | None = None) -> None:
        """`model` None compares with no model, only with the manifest."""
        self._model = model
        self._original: _Original | None = None

    def check(self, target: WeightsTarget) -> Version:
        """The version, when it is what was published and of this model; raises WeightsError."""
        folder = Path(target.path)
        if not folder.is_dir():
            raise WeightsError(f"{folder}: no such folder")
        manifest = read_manifest(folder, target.checksum)
        if manifest is not None and manifest.files:
            _check_files(folder, manifest.files)
        if not any(folder.glob("*.safetensors")):
            raise WeightsError(f"{folder}: holds no .safetensors file")
        try:
            self._check_tensors(folder)
        except TensorsError as error:
            raise WeightsError(f"{folder}: {error}") from None
        return Version(folder, manifest.fixed_prompt if manifest else None)

    def original(self) -> Version | None:
        """The model's own files, None where they are nowhere on this machine."""
        folder = folder_of(self._model) if self._model else None
        return Version(folder) if folder is not None else None

    def _check_tensors(self, folder: Path) -> None:
        found = tensors_of(folder)
        original = self._original = self._original or self._read_original()
        if original is not None:
            check_tensors(found, original.tensors, original.optional)
        check_finite(found)

    def _read_original(self) -> _Original | None:
        version = self.original()
        tensors = tensors_of(version.folder) if version is not None else {}
        if version is None or not tensors:
            return None
        return _Original(tensors, optional_names(_read_config(version.folder)))


def read_manifest(folder: Path, checksum: str) -> WeightsManifest | None:
    """The version's manifest, whose SHA-256 must be `checksum`; None for a version without, published with "".

    Raises WeightsError.
    """
    file = folder / MANIFEST
    if not checksum and not file.is_file():
        return None
    try:
        content = file.read_bytes()
    except OSError as error:
        raise WeightsError(f"{file}: {error.strerror}") from None
    found = hashlib.sha256(content).hexdigest()
    if checksum and found != checksum.removeprefix("sha256:"):
        raise WeightsError(f"{file}: its SHA-256 is {found}, published was {checksum}")
    try:
        return WeightsManifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise WeightsError(f"{file}: {place}: {first['msg']}") from None


def folder_of(model: str) -> Path | None:
    """Where a model's files lie: the folder itself, or what was fetched of a hub name; None where nothing was."""
    folder = Path(model)
    if folder.is_dir():
        return folder
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(model, local_files_only=True))
    except Exception:
        # The library has a dozen kinds of saying that nothing is there.
        return None


def _check_files(folder: Path, files: Mapping[str, WeightFile]) -> None:
    for name, entry in files.items():
        _check_file(folder / name, entry)
    for file in folder.glob("*.safetensors"):
        if file.name not in files:
            raise WeightsError(f"{file}: is not in the manifest")


def _check_file(file: Path, entry: WeightFile) -> None:
    if not file.is_file():
        raise WeightsError(f"{file}: listed in the manifest but missing")
    size = file.stat().st_size
    if size != entry.bytes:
        raise WeightsError(f"{file}: has {size} bytes, the manifest says {entry.bytes}")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != entry.sha256:
        raise WeightsError(f"{file}: its SHA-256 is {digest}, the manifest says {entry.sha256}")


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
