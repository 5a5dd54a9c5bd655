"""The control plane's table of strategies, and what admission and `shoal validate` make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal.api.strategies import names
from shoal.api.v1alpha1.jobdata import Data
from shoal.api.validate import validate_manifest
from shoal_workers.strategies import table

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "frozenlake" / "job.yaml"


def test_the_table_is_what_the_code_says() -> None:
    assert table.FILE.read_text() == table.text(), "run python -m shoal_workers.strategies.table"


def job() -> dict[str, Any]:
    (found,) = (each for each in yaml.safe_load_all(EXAMPLE.read_text()) if each and each["kind"] == "RLJob")
    assert isinstance(found, dict)
    return found


def changed(path: str, value: Any) -> dict[str, Any]:
    document = job()
    at = document["spec"]
    *parents, last = path.split(".")
    for parent in parents:
        at = at.setdefault(parent, {})
    at[last] = value
    return document


WRONG = [
    ("data.sampler", {"name": "unifrom"}, "spec.data.sampler.name", "must be one of sequential, uniform, vade"),
    (
        "data.allocator",
        {"name": "dart", "parameters": {"epsilon": -1}},
        "spec.data.allocator.parameters.epsilon",
        "has:",
    ),
    (
        "data.allocator",
        {"name": "dart", "parameters": {"threshold": 1.5}},
        "spec.data.allocator.parameters.threshold",
        "must be at most 1",
    ),
    ("agents.turnBudget", {"name": "percentil"}, "spec.agents.turnBudget.name", "must be one of fixed"),
    ("trainer.algorithm", {"advantage": {"name": "grpoo"}}, "spec.trainer.algorithm.advantage.name", "grpo"),
    (
        "trainer.algorithm",
        {"advantage": {"name": "grpo", "parameters": {"epsilon": -1}}},
        "spec.trainer.algorithm.advantage.parameters.epsilon",
        "must be above 0",
    ),
    (
        "trainer.algorithm",
        {"advantage": {"name": "grpo", "parameters": {"normalize": 1}}},
        "spec.trainer.algorithm.advantage.parameters.normalize",
        "must be of type boolean",
    ),
]


@pytest.mark.parametrize(("path", "value", "field", "words"), WRONG)
def test_what_does_not_exist_is_refused_by_field(path: str, value: Any, field: str, words: str) -> None:
    problems = validate_manifest(changed(path, value))
    assert [each.path for each in problems] == [field]
    assert words in problems[0].message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.sampler", {"name": "acme.rules:Mine", "parameters": {"anything": [1]}}),
        ("data.allocator", {"name": "dart", "parameters": {"threshold": 0.5}}),
        ("agents.turnBudget", {"name": "longest-success"}),
        ("trainer.algorithm", {"loss": {"name": "ppo-clip", "parameters": {"clipLow": 0.1}}}),
    ],
)
def test_what_exists_and_what_is_ones_own_is_taken(path: str, value: Any) -> None:
    assert validate_manifest(changed(path, value)) == []


def test_values_of_the_release_before_are_understood() -> None:
    data = Data.model_validate({"sampler": "Sequential", "allocator": "DART"})
    assert (data.sampler.name, data.allocator.name) == ("sequential", "dart")
    assert Data.model_validate({"allocator": "Fixed"}).allocator.name == "uniform"
    assert {"uniform", "dart"} <= set(names("shoal.data.allocator"))
