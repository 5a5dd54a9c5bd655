"""Two jobs on one fleet: the second waits without a fault while the first has it, then learns from its own weights."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.machine import Machine
from e2e.providers.examples import ROOT, ensure_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHARED = ROOT / "examples" / "shared"
PLURALS = {"EnvironmentPool": "environmentpools", "RolloutFleet": "rolloutfleets", "RLJob": "rljobs"}


class Plane(Machine):
    """A control plane that stays, and what is applied to it."""

    def shoal(self, command: str) -> None:
        """`shoal up` or `shoal down`."""
        arguments = [sys.executable, "-m", "shoal.cli.main", command, "--state-dir", str(self.folder / "state")]
        subprocess.run(arguments, check=True, timeout=120)

    def create(self, manifest: dict[str, Any]) -> None:
        """A resource of the examples, its data in this run's folder."""
        if "storage" in manifest["spec"]:
            manifest["spec"]["storage"] = {"hostPath": {"path": str(self.folder / "data")}}
        request = urllib.request.Request(
            f"{self.server}/apis/rl.shoal.dev/v1alpha1/namespaces/default/{PLURALS[manifest['kind']]}",
            data=json.dumps(manifest).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10):
            pass

    def status(self, kind: str, name: str) -> dict[str, Any]:
        """A resource's status."""
        return dict(self.get(PLURALS[kind], name).get("status", {}))

    def told(self, job: str, type_: str) -> str:
        """The message of a job's condition that is true, "" for others."""
        conditions = self.status("RLJob", job).get("conditions", [])
        return next((each["message"] for each in conditions if (each["type"], each["status"]) == (type_, "True")), "")


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    """A control plane with the shared pool and the shared fleet of the examples."""
    ensure_model()
    plane_ = Plane(tmp_path)
    plane_.shoal("up")
    try:
        pool, fleet = (yaml.safe_load((SHARED / name).read_text()) for name in ("pool.yaml", "fleet.yaml"))
        fleet["spec"]["workerGroups"][0]["replicas"] = {"min": 1, "max": 1}
        plane_.create(pool)
        plane_.create(fleet)
        yield plane_
    finally:
        plane_.shoal("down")
    assert plane_.processes() == {}


def test_jobs_follow_each_other_on_a_fleet(plane: Plane) -> None:
    job = yaml.safe_load((SHARED / "job.yaml").read_text())
    for name in ("first", "second"):
        plane.create({**job, "metadata": {"name": name}})
        plane.until(lambda: plane.status("RLJob", "first").get("step", 0) >= 1, "the first job's first step", 240)
    held = "serves the weights of run first-"
    print(
        "told:",
        plane.until(lambda: held in plane.told("second", "Degraded"), "the second is told who has the fleet", 60),
    )
    plane.until(lambda: plane.status("RLJob", "first").get("phase") == "Complete", "the first job's end", 240)
    taken = plane.until(lambda: plane.status("RLJob", "second").get("step", 0) >= 1, "the second job's first step", 180)
    print("the second's first step after the first's end:", taken)
    plane.until(lambda: plane.status("RLJob", "second").get("phase") == "Complete", "the second job's end", 240)
    second = plane.status("RLJob", "second")
    assert second["step"] == job["spec"]["trainer"]["steps"]
    assert second["trajectories"]["faults"] == 0
    assert plane.status("RolloutFleet", "tiny")["weightVersion"]["run"].startswith("second-")
