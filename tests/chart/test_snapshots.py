"""What the chart renders, whole. After a change that is meant: `SHOAL_SNAPSHOTS=write pytest tests/chart`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from tests.chart.cases import CASES
from tests.chart.helm import Helm, Json

SNAPSHOTS = Path(__file__).parent / "snapshots"


@pytest.mark.parametrize("name", CASES)
def test_renders_as_before(helm: Helm, name: str) -> None:
    # The definitions and the dashboard are compared with their sources elsewhere.
    rendered = helm.render(CASES[name])
    objects = [body for body in rendered if body["kind"] != "CustomResourceDefinition" and not is_dashboard(body)]
    text = yaml.safe_dump_all(objects, sort_keys=False, width=120)
    file = SNAPSHOTS / f"{name}.yaml"
    if os.environ.get("SHOAL_SNAPSHOTS") == "write":
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert list(yaml.safe_load_all(file.read_text())) == objects


def is_dashboard(body: Json) -> bool:
    return body["kind"] == "ConfigMap" and str(body["metadata"]["name"]).endswith("-dashboard")


def test_no_snapshot_is_left_over() -> None:
    assert {file.stem for file in SNAPSHOTS.iterdir()} == set(CASES)
