"""Checkpoints: `checkpoints/<step>/`, each one enough to go on exactly where it was taken."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from shoal_workers.trainer.files import new_folder, numbered, replace_file
from shoal_workers.trainer.progress import Progress

logger = logging.getLogger(__name__)

PROGRESS = "progress.json"
LEARNER = "learner.pt"
REFERENCE = "reference.pt"


def save(folder: Path, progress: Progress, state: Mapping[str, Any], keep: int) -> None:
    """Write the checkpoint of `progress.step`, then remove all but the newest `keep`."""
    with new_folder(folder / str(progress.step)) as temporary:
        torch.save(dict(state), temporary / LEARNER)
        (temporary / PROGRESS).write_text(progress.model_dump_json())
    for step in numbered(folder)[:-keep]:
        shutil.rmtree(folder / str(step), ignore_errors=True)


def keep_reference(folder: Path, reference: Mapping[str, Any]) -> dict[str, Any]:
    """The reference weights of the job: `reference` the first time, and what was kept then ever after.

    The model's source may have changed when a trainer starts again, and a policy must not be pulled elsewhere in the
    middle of a job.
    """
    path = folder / REFERENCE
    if not path.exists():
        buffer = io.BytesIO()
        torch.save(dict(reference), buffer)
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, buffer.getvalue())
    kept: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return kept


def newest(folder: Path) -> tuple[Progress, dict[str, Any]] | None:
    """The newest checkpoint that can be read, None where there is none at all; one that cannot be read is logged.

    Raises ValueError where there are checkpoints and none can be read.
    """
    wrong = ""
    for step in reversed(numbered(folder)):
        path = folder / str(step)
        try:
            progress = Progress.model_validate_json((path / PROGRESS).read_bytes())
            state = torch.load(path / LEARNER, map_location="cpu", weights_only=True)
        except Exception as error:  # unpickling damaged bytes may raise anything
            cause = str(error).splitlines()[0] if str(error) else type(error).__name__
            logger.warning("checkpoint cannot be read", extra={"checkpoint": str(path), "cause": cause})
            wrong = wrong or f"no checkpoint can be read, and the newest ({path.name}) not because of: {cause}"
            continue
        return progress, state
    if wrong:
        raise ValueError(wrong)
    return None
