"""Changes of a job that runs do what the fields say, within seconds."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.machine import Machine
from e2e.providers.examples import ensure_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SECONDS = 60
"""An engine needs half a minute to start on a busy machine; everything else is a matter of a few seconds."""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A longer run of the example, training."""
    ensure_model()
    machine_ = Machine(tmp_path, ["--set", "spec.trainer.steps=60"])
    machine_.start()
    machine_.until(lambda: machine_.step() >= 2, "the first steps", 300)
    yield machine_
    if machine_.process is not None and machine_.process.poll() is None:
        machine_.interrupt()
    assert machine_.processes() == {}


def patch(machine: Machine, kind: str, name: str, change: dict[str, Any]) -> None:
    """A merge patch of one resource."""
    request = urllib.request.Request(
        f"{machine.server}/apis/rl.shoal.dev/v1alpha1/namespaces/default/{kind}/{name}",
        method="PATCH",
        data=json.dumps(change).encode(),
        headers={"Content-Type": "application/merge-patch+json"},
    )
    with urllib.request.urlopen(request, timeout=10):
        pass


def status(machine: Machine, kind: str, name: str) -> dict[str, Any]:
    """A resource's status."""
    return dict(machine.get(kind, name).get("status", {}))


def test_replicas_template_suspend_and_resume(machine: Machine) -> None:
    pools, lake = "environmentpools", "frozenlake-lake"

    def ready(count: int) -> bool:
        found = status(machine, pools, lake)
        return (found.get("readyReplicas"), found.get("replicas")) == (count, count)

    patch(machine, pools, lake, {"spec": {"replicas": 3}})
    print("3 members:", machine.until(lambda: ready(3), "a third member", SECONDS))
    patch(machine, pools, lake, {"spec": {"replicas": 1}})
    print("1 member:", machine.until(lambda: ready(1), "idle members are retired", SECONDS))
    patch(machine, pools, lake, {"spec": {"replicas": 2, "template": {"metadata": {"labels": {"round": "two"}}}}})

    def replaced() -> bool:
        found = status(machine, pools, lake)
        return ready(2) and found.get("updatedReplicas") == 2

    print("new template:", machine.until(replaced, "members of the new template", SECONDS))
    fleet = "frozenlake-fleet"
    patch(machine, "rolloutfleets", fleet, {"spec": {"replicas": 1}})
    one = lambda: status(machine, "rolloutfleets", fleet).get("replicas") == 1  # noqa: E731
    print("1 engine:", machine.until(one, "one engine is drained", SECONDS))

    patch(machine, "rljobs", "frozenlake", {"spec": {"suspend": True}})

    def resting() -> bool:
        job = status(machine, "rljobs", "frozenlake").get("phase")
        return job == "Suspended" and status(machine, pools, lake).get("replicas") == 0

    print("suspended:", machine.until(resting, "the job and what it owns rest", SECONDS))
    step = machine.step()
    patch(machine, "rljobs", "frozenlake", {"spec": {"suspend": False}})
    print("resumed:", machine.until(lambda: machine.step() > step, "training goes on where it was", 3 * SECONDS))
    assert machine.wait(400) == 0, machine.log[-3000:]
    assert machine.report.proof.holds


def test_ctrl_c_leaves_nothing(machine: Machine) -> None:
    assert machine.interrupt() == 130
    assert machine.processes() == {}
