"""SIGKILL of the operator and of every role, one after the other, while a real model learns.

The run still completes, the policy is as good as ever, no trajectory is trained twice or lost, and no process is left.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from e2e.machine import Machine
from e2e.providers.examples import ensure_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

VICTIMS = ("operator", "environment", "engine", "data", "trainer", "broker", "gateway", "agent")
STEPS_BETWEEN = 3


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A run of the example; whatever happens, nothing of it stays."""
    ensure_model()
    machine_ = Machine(tmp_path)
    machine_.start()
    yield machine_
    if machine_.process is not None and machine_.process.poll() is None:
        machine_.interrupt()


def _reached(machine: Machine, step: int) -> bool:
    return machine.step() >= step


def test_every_process_may_die_once(machine: Machine) -> None:
    machine.until(lambda: machine.step() >= 2, "the first steps", 300)
    for role in VICTIMS:
        before = machine.step()
        machine.kill(role)
        seconds = machine.until(partial(_reached, machine, before + STEPS_BETWEEN), f"going on without the {role}", 240)
        print(f"{role}: {STEPS_BETWEEN} more steps after {seconds:.0f} s")
    assert machine.wait(300) == 0, machine.log[-3000:]
    report = machine.report
    assert report.proof.holds, report.proof
    assert report.proof.trained_more_than_once == 0
    assert report.proof.lost == 0
    final = next(point for point in report.evaluations if point.purpose == "final")
    assert final.success >= 0.9
    assert machine.processes() == {}
