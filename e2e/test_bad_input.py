"""Input that no schema can refuse: within half a minute the job says, in words to act on, what is missing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.machine import Machine
from e2e.providers.examples import ensure_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SECONDS = 30
ENVIRONMENT = "spec.environments.0.template.spec.environment"
CASES = {
    "environment": (f"{ENVIRONMENT}.entrypoint=FrozenTake-v9", "FrozenTake"),
    "environment-argument": (f"{ENVIRONMENT}.config.kwargs.slipperiness=1", "slipperiness"),
    "model": ("spec.model.source=file:/var/lib/shoal/models/nowhere", "models/nowhere"),
    "engine-argument": ('spec.fleet.template.spec.engine.args=["--no-such-flag=1"]', "no-such-flag"),
    "store": ("spec.storage.hostPath.path=/proc/shoal", "/proc/shoal"),
    "tasks": ('spec.data.tasks={"file": "/var/lib/shoal/none.jsonl"}', "none.jsonl"),
    "algorithm": ("spec.trainer.algorithm.loss.name=guessing", "guessing"),
}
"""What is set, and a word that the message must have."""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A run that is ended, whatever comes of it."""
    ensure_model()
    machine_ = Machine(tmp_path)
    yield machine_
    if machine_.process is not None and machine_.process.poll() is None:
        machine_.interrupt()
    assert machine_.processes() == {}


@pytest.mark.parametrize("name", CASES)
def test_is_told_in_half_a_minute(machine: Machine, name: str) -> None:
    assignment, words = CASES[name]
    machine.options = ["--set", assignment]
    machine.start()

    def told() -> bool:
        conditions = machine.get("rljobs", "frozenlake").get("status", {}).get("conditions", [])
        messages = [each.get("message", "") for each in conditions if each["status"] == "True"]
        # Of a job that fails at once the command itself tells, and ends the API server.
        return any(words in message for message in messages) or words in machine.log

    seconds = machine.until(told, f"a condition that names {words}", SECONDS)
    print(f"{name}: told after {seconds:.0f} s")
