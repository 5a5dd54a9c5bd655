"""The command's own words: bad input, missing programs, and what a build step refuses."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from images import install, wheels
from images.progress import BuildError

ROOT = Path(__file__).resolve().parents[2]


def ran(*arguments: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "images", "build", *arguments],
        cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--tool", "buildah", "gateway"],
            "images: no role is called gateway: choose of operator, environment, services",
        ),
        (["--tool", "docker"], "images: docker is not installed: install it, or choose --tool buildah or podman"),
        (["--tool", "buildah"], "images: buildah is not installed: install it, or choose --tool docker or podman"),
        (["--tool", "kaniko"], "invalid choice: 'kaniko'"),
        (["--accelerator", "tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_bad_input_is_told_at_once(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = ran(*arguments, path=str(tmp_path))
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_another_python_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "WANTED_PYTHON", (3, 99))
    with pytest.raises(BuildError, match=r"fetched with Python 3\.99, and this is .*--online"):
        wheels.check_python(online=False)
    wheels.check_python(online=True)


def test_a_missing_lock_is_told() -> None:
    with pytest.raises(
        BuildError, match=r"requirements/nothing\.lock is missing: run `python requirements/compile\.py"
    ):
        wheels.read_lock("nothing")


def test_the_digest_is_that_of_the_mounted_files(tmp_path: Path) -> None:
    (tmp_path / "packages.lock").write_text("a")
    (tmp_path / "wheels").mkdir()
    first = install.digest(tmp_path)
    (tmp_path / "wheels" / "x.whl").write_text("the lock has its hash")
    assert install.digest(tmp_path) == first
    (tmp_path / "packages.lock").write_text("b")
    assert install.digest(tmp_path) != first


def test_a_step_with_other_files_than_promised_ends(tmp_path: Path) -> None:
    shutil.copy(install.__file__, tmp_path / "install.py")
    command = [sys.executable, str(tmp_path / "install.py"), "packages", "--digest", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "build again" in done.stderr


def test_fetching_the_same_lock_again_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(wheels, "download", lambda lock, folder: calls.append(folder.mkdir(exist_ok=True)))
    lock = {"a": "a==1 --hash=sha256:0"}
    wheels.fetch(lock, tmp_path / "wheels")
    (tmp_path / "wheels" / "old-1-py3-none-any.whl").touch()
    wheels.fetch(lock, tmp_path / "wheels")
    assert len(calls) == 1
    wheels.fetch({"a": "a==2 --hash=sha256:0"}, tmp_path / "wheels")
    assert len(calls) == 2
    assert list((tmp_path / "wheels").iterdir()) == []
