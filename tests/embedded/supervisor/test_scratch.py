"""The folder for what programs write in passing."""

import os
from pathlib import Path

import pytest

from shoal_embedded.supervisor import scratch


def test_a_plane_that_was_killed_leaves_its_folder_to_the_next_one(tmp_path: Path) -> None:
    first = scratch.make(tmp_path)
    (first / "ray" / "sockets").mkdir(parents=True)
    second = scratch.make(tmp_path)
    assert not first.exists()
    assert second.stat().st_mode & 0o777 == 0o700
    scratch.remove(tmp_path)
    assert not second.exists()
    scratch.remove(tmp_path)


def test_only_such_folders_are_removed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    link = tmp_path / "shoal-link"
    link.symlink_to(precious)
    for named in (precious, link, tmp_path / "nowhere"):
        (tmp_path / scratch.RECORD).write_text(str(named))
        scratch.remove(tmp_path)
    assert precious.exists()


def test_a_socket_of_rays_fits(tmp_path: Path) -> None:
    folder = scratch.make(tmp_path)
    session = "session_2026-11-27_03-20-44_123456_4194304"
    assert len(f"{folder}/shoal-ray-12345678/{session}/sockets/plasma_store") <= 107
    scratch.remove(tmp_path)


def test_programs_have_another_home_where_theirs_cannot_be_written(tmp_path: Path) -> None:
    folder = Path("/tmp/shoal-x")
    plain = {"TMPDIR": str(folder)}
    assert scratch.variables(folder, {"HOME": str(tmp_path)}) == plain
    assert scratch.variables(folder, {"HOME": "/proc/1"}) == plain | {"HOME": str(folder)}
    given = {"HOME": "/proc/1", "XDG_CACHE_HOME": "/proc/2", "XDG_CONFIG_HOME": str(tmp_path / "c")}
    caches = {"XDG_CACHE_HOME": str(folder / ".cache")}
    assert scratch.variables(folder, given) == plain | caches | {"HOME": str(folder)}


def test_models_in_a_home_that_cannot_be_written_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "is_writable", lambda folder: False)
    models = tmp_path / ".cache" / "huggingface"
    models.mkdir(parents=True)
    assert scratch.variables(Path("/tmp/shoal-x"), {"HOME": str(tmp_path)})["HF_HOME"] == str(models)
    assert "HF_HOME" not in scratch.variables(Path("/tmp/shoal-x"), {"HOME": str(tmp_path), "HF_HOME": "/models"})


def test_a_user_without_an_entry_in_the_systems_list_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert scratch.variables(Path("/tmp/shoal-x"), {"HOME": "/tmp"})["USER"] == f"user-{os.getuid()}"
