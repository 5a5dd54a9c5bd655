"""The trainer's configuration as tests need it, and waiting for what it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.api.services.roles.trainer import TrainerConfig


def trainer_config(folder: Path, **changes: Any) -> TrainerConfig:
    """A configuration whose services are nowhere, unless `changes` say where."""
    values: dict[str, Any] = {
        "folder": str(folder),
        "model": str(folder / "model"),
        "data_url": "http://127.0.0.1:1",
        "gateway_url": "http://127.0.0.1:1",
        "steps": 4,
        "batch_groups": 1,
        "dtype": "float32",
        "max_model_len": 128,
        "optimizer": {"learning_rate": 1e-2},
    }
    return TrainerConfig.model_validate(values | changes)


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until the condition holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.002)
