"""What `shoal run` and `shoal up` are told is checked before anything starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from shoal.cli.main import main
from shoal.cli.options import default_data_dir
from tests.cli.test_bad_input import EXAMPLE, refusal


def test_times_that_are_none() -> None:
    for wrong in ("-3", "0", "nan"):
        assert "--timeout" in refusal("run", str(EXAMPLE), "--timeout", wrong)


@pytest.mark.parametrize("option", ["--state-dir", "--data-dir", "--report-dir"])
def test_folders_that_cannot_be_made(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = refusal("run", str(EXAMPLE), option, "/proc/shoal", SHOAL_DATA_DIR=str(tmp_path / "data"))
    assert f"{option} /proc/shoal: No such file or directory" in said
    assert "starting the control plane" not in said


def test_folders_that_are_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for option in ("--state-dir", "--data-dir", "--report-dir"):
        assert "is a file" in refusal("run", str(EXAMPLE), option, str(tmp_path / "file"))


def test_a_namespace_that_the_manifest_contradicts(tmp_path: Path) -> None:
    manifest = tmp_path / "job.yaml"
    manifest.write_text(EXAMPLE.read_text().replace("  name: frozenlake\n", "  name: frozenlake\n  namespace: a\n", 1))
    folders = ("--report-dir", str(tmp_path / "report"), "--data-dir", str(tmp_path / "data"))
    said = refusal("run", str(manifest), "-n", "b", *folders)
    assert "--namespace b: the manifest of RLJob/frozenlake says namespace 'a'" in said


def test_data_lies_in_the_users_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_DATA_DIR", "/somewhere")
    assert default_data_dir() == Path("/somewhere")
    monkeypatch.delenv("SHOAL_DATA_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert default_data_dir() == tmp_path / "xdg" / "shoal"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / ".local" / "share" / "shoal"


def test_without_a_home_data_lies_in_a_folder_that_is_this_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOAL_DATA_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "/proc/1")
    own = tmp_path / f"shoal-{os.getuid()}"
    assert default_data_dir() == own
    own.symlink_to("/etc")
    done = CliRunner().invoke(main, ["up", "--state-dir", str(tmp_path / "state")])
    assert f"{own} belongs to somebody else" in done.output
    assert done.exit_code == 2
