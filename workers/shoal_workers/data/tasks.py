"""Where tasks come from, and in which order."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.api.services.roles.data import TaskConfig
from shoal_workers.service import ConfigurationError


@dataclass(frozen=True)
class Task:
    """One thing to do: its id, and what the environment's reset gets."""

    id: str
    body: dict[str, Any]


def seeded(task: Task) -> Task:
    """The task with a seed: its own, or one made of its id, so that all members of a group start in the same state."""
    if task.body.get("seed") is not None:
        return task
    digest = hashlib.sha256(task.id.encode()).digest()
    return Task(task.id, {**task.body, "seed": int.from_bytes(digest[:4]) & 0x7FFFFFFF})


@dataclass(frozen=True)
class TaskPool:
    """All tasks, by index."""

    size: int
    at: Callable[[int], Task]


def load_tasks(config: TaskConfig) -> TaskPool:
    """The tasks of a job. Raises ConfigurationError naming the field (and line) that is wrong."""
    if config.seeds is not None:
        start, count = config.seeds.start, config.seeds.count
        return TaskPool(count, lambda index: Task(f"seed-{start + index}", {"seed": start + index}))
    bodies = config.inline if config.inline is not None else _read_lines(config.file)
    if not bodies:
        raise ConfigurationError("tasks", "there is no task")
    return TaskPool(len(bodies), lambda index: Task(str(bodies[index].get("id", f"task-{index}")), bodies[index]))


def _read_lines(file: str | None) -> list[dict[str, Any]]:
    if file is None:
        raise ConfigurationError("tasks", "one of seeds, inline and file must be set")
    bodies = []
    try:
        for number, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), 1):
            try:
                body = json.loads(line) if line.strip() else None
            except ValueError as error:
                raise ConfigurationError("tasks.file", f"{file}:{number}: {error}") from None
            if body is not None and not isinstance(body, dict):
                raise ConfigurationError("tasks.file", f"{file}:{number}: not a JSON object")
            bodies += [body] if body is not None else []
    except OSError as error:
        raise ConfigurationError("tasks.file", f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError("tasks.file", f"{file}: {error}") from error
    return bodies
