"""What YAML's other readers take in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from shoal.cli.main import main
from shoal.cli.yamls import DuplicateKeyError, load_all
from tests.cli.test_bad_input import EXAMPLE


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("+1.5e2", 150.0),
        (".5e1", 5.0),
        ("1.0", 1.0),
        ("7", 7),
        ("1e", "1e"),
        ("e5", "e5"),
    ],
)
def test_numbers_are_what_kubernetes_takes_for_numbers(text: str, value: object) -> None:
    assert load_all(f"a: {text}\nb: '{text}'") == [{"a": value, "b": text}]


def test_a_key_that_stands_twice_is_refused_with_both_lines() -> None:
    with pytest.raises(DuplicateKeyError, match=r"line 4: steps is there already, in line 2"):
        load_all("trainer:\n  steps: 1\n  batch: {}\n  steps: 2\n")
    with pytest.raises(DuplicateKeyError):
        load_all("{a: 1, a: 1}")
    assert load_all("a: {x: 1}\nb: {x: 1}\n---\na: 1") == [{"a": {"x": 1}, "b": {"x": 1}}, {"a": 1}]


def test_merged_keys_may_be_given_anew() -> None:
    assert load_all("base: &base {x: 1, y: 2}\nmore: {<<: *base, x: 3}")[0]["more"] == {"x": 3, "y": 2}


def validated(folder: Path, old: str, new: str) -> str:
    """What `shoal validate` says of the example with this change."""
    manifest = folder / "job.yaml"
    manifest.write_text(EXAMPLE.read_text().replace(old, new, 1))
    done = CliRunner().invoke(main, ["validate", str(manifest)])
    assert done.exit_code in (1, 2)
    return done.output


@pytest.mark.parametrize("number", ["0.9", "1e-3", "1"])
def test_a_decimal_without_quotes_is_pointed_out(tmp_path: Path, number: str) -> None:
    said = validated(tmp_path, 'beta1: "0.9"', f"beta1: {number}")
    assert "spec.trainer.optimizer.beta1: must be text: put the number in quotes, " in said


def test_a_duplicate_is_pointed_out(tmp_path: Path) -> None:
    assert "groupSize is there already" in validated(
        tmp_path, "    groupSize: 8\n", "    groupSize: 8\n    groupSize: 4\n"
    )
