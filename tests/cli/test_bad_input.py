"""What a person may type wrongly at a terminal: one line that says so, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from shoal.cli.main import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "frozenlake" / "job.yaml"


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """A file that is no text."""
    file = tmp_path / "binary"
    file.write_bytes(b"\x89PNG")
    return file


def refusal(*arguments: str, **environment: str) -> str:
    """What the command says when it refuses."""
    done = CliRunner().invoke(main, arguments, env=environment)
    assert done.exit_code in (1, 2), done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.output


def test_a_file_that_is_no_text(binary: Path) -> None:
    assert "not a text file" in refusal("validate", str(binary))
    assert f"kubeconfig {binary}" in refusal("status", "--kubeconfig", str(binary))


def test_no_cluster_to_ask(tmp_path: Path) -> None:
    nowhere = {"KUBECONFIG": str(tmp_path / "none"), "SHOAL_STATE_DIR": str(tmp_path)}
    for command in (("status",), ("logs", "job", "trainer")):
        said = refusal(*command, **nowhere)
        assert str(tmp_path / "none") in said
        assert "shoal up" in said


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("spec.trainer.steps=[", "not YAML"),
        ("metadata=3", "metadata.name is missing"),
        ("metadata.name=null", "metadata.name is missing"),
        ("metadata.name=Bad_Name", "metadata.name"),
    ],
)
def test_an_assignment_that_cannot_be(assignment: str, words: str) -> None:
    assert words in refusal("run", str(EXAMPLE), "--set", assignment)


def test_addresses_durations_and_folders(tmp_path: Path) -> None:
    assert "expected HOST:PORT" in refusal("operator", "--metrics-listen", "foo")
    assert "not a duration" in refusal("operator", "--token-max-age", "30 days")
    file = tmp_path / "file"
    file.write_text("")
    assert "is a file" in refusal("up", "--state-dir", str(file))
    assert "exclude each other" in refusal("logs", "job", "trainer", "-f", "--previous")


def test_objects_of_other_groups_are_not_called_valid(tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text("{apiVersion: v1, kind: Pod, metadata: {name: x}}")
    done = CliRunner().invoke(main, ["validate", str(file)])
    assert (done.exit_code, done.output) == (0, "Pod/x: not checked: v1 is not Shoal's\n")
