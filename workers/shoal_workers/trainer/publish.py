"""Weight versions on the shared volume: `versions/<n>/`, and `versions/latest.json` that names the newest.

A version is an ordinary Hugging Face folder plus `manifest.json` (WeightsManifest), which has every file's SHA-256 and
the model's log-probs of a fixed prompt. The manifest's own SHA-256 is the version's checksum. A version is written
beside its place and moved there, so an engine never sees half of one.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from shoal.api.services.models import FixedPrompt, WeightFile, WeightsManifest, WeightsTarget
from shoal_workers.trainer.files import new_folder, numbered, replace_file, sha256
from shoal_workers.trainer.fixed import fixed_prompt

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

MANIFEST = "manifest.json"
LATEST = "latest.json"
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.index.json")


def publish(
    folder: Path,
    model: PreTrainedModel,
    weights: Mapping[str, Tensor],
    companions: Mapping[str, bytes],
    version: int,
    step: int,
    run: str,
) -> WeightsTarget:
    """Write `version` of `run` and make it the latest; an old folder of the same number is replaced.

    `weights` are written as a checkpoint of `model`'s class; `companions` are the files that go with them (see
    `companions_of`).
    """
    target = folder / str(version)
    with new_folder(target) as temporary:
        for name, content in companions.items():
            (temporary / name).write_bytes(content)
        model.save_pretrained(temporary, state_dict=dict(weights))
        _name_type(temporary / "config.json", weights)
        for path in temporary.iterdir():
            path.chmod(0o644)
        manifest = _manifest(temporary, version, step, fixed_prompt(temporary))
        (temporary / MANIFEST).write_bytes(manifest)
    checksum = hashlib.sha256(manifest).hexdigest()
    published = WeightsTarget(version=version, path=str(target), checksum=checksum, run=run)
    replace_file(folder / LATEST, published.model_dump_json().encode())
    return published


def _name_type(config: Path, weights: Mapping[str, Tensor]) -> None:
    """Let the model's configuration name the type that the weights are written in: engines go by it."""
    floating = next(value.dtype for value in weights.values() if value.is_floating_point())
    content = orjson.loads(config.read_bytes())
    config.write_bytes(
        orjson.dumps(content | {"dtype": str(floating).removeprefix("torch.")}, option=orjson.OPT_INDENT_2)
    )


def latest(folder: Path, run: str) -> WeightsTarget | None:
    """The newest published version, None before the first.

    The folder is of one job, so what lies in it is of `run`, also where an earlier release published it in no name.
    """
    try:
        newest = WeightsTarget.model_validate_json((folder / LATEST).read_bytes())
    except FileNotFoundError:
        return None
    return newest.model_copy(update={"run": run})


def prune(folder: Path, keep: int, in_use: Collection[int] | None) -> list[int]:
    """Remove versions that are neither among the newest `keep` nor `in_use`; the removed ones.

    None where nobody knows what engines use: then none are removed. The next publication makes up for it.
    """
    if in_use is None:
        return []
    versions = numbered(folder)
    removed = [version for version in versions[: max(0, len(versions) - keep)] if version not in in_use]
    for version in removed:
        shutil.rmtree(folder / str(version), ignore_errors=True)
    return removed


def _manifest(folder: Path, version: int, step: int, prompt: FixedPrompt | None) -> bytes:
    files = {path.name: WeightFile(sha256=sha256(path), bytes=path.stat().st_size) for path in sorted(folder.iterdir())}
    manifest = WeightsManifest(version=version, step=step, files=files, fixed_prompt=prompt)
    return manifest.model_dump_json(indent=2).encode()


def companions_of(source: str) -> dict[str, bytes]:
    """Everything of a model that is not weights: tokenizer, chat template, generation defaults.

    Read once at the start, so that a job does not depend on its source staying as it is.
    """
    folder = Path(source)
    if folder.is_dir():
        return _companions_in(folder)
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as temporary:
        AutoTokenizer.from_pretrained(source).save_pretrained(temporary)
        return _companions_in(Path(temporary))


def _companions_in(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.name != MANIFEST and not any(path.match(pattern) for pattern in _WEIGHTS)
    }
