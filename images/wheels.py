"""Brings the files that a build installs onto this machine: packages by their locks, the installer, Shoal's wheel."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from images.install import WANTED_PYTHON
from images.locks import Lock, parse, render, version, with_cpu_torch
from images.progress import BuildError, must, say

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "requirements"
PACKED = ("operator", "workers")
"""Source roots that the images hold; the embedded control plane is for a person's machine."""
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def read_lock(name: str) -> Lock:
    """A lock of `requirements/`."""
    path = LOCKS / f"{name}.lock"
    try:
        return parse(path.read_text())
    except FileNotFoundError:
        raise BuildError(f"{path.relative_to(ROOT)} is missing: run `python requirements/compile.py {name}`") from None
    except ValueError as error:
        raise BuildError(f"{path.relative_to(ROOT)}: {error}") from None


def check_python(*, online: bool) -> None:
    """Packages are fetched for the Python that fetches them, and the images have the locks' Python.

    Args:
        online: whether the build fetches the packages itself.
    """
    wanted = ".".join(map(str, WANTED_PYTHON))
    if not online and sys.version_info[:2] != WANTED_PYTHON:
        raise BuildError(
            f"packages for the images are fetched with Python {wanted}, and this is {sys.version.split()[0]}: start "
            f"`python{wanted} -m images build`, or let the build fetch them from its own index with --online"
        )
    if subprocess.run([*PIP, "--version"], capture_output=True, check=False).returncode:
        raise BuildError(f"{sys.executable} has no pip, which fetches the packages: start another Python")


def download(lock: Lock, folder: Path) -> None:
    """Download packages, checked against their hashes; what lies in the folder already is not fetched again."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".lock") as file:
        file.write(render(lock))
        file.flush()
        options = ["-q", "--no-deps", "--require-hashes", "--progress-bar=off"]
        must([*PIP, "download", *options, "-r", file.name, "-d", str(folder)], f"fetching packages into {folder}")


def outdated(lock: Lock, names: list[str]) -> list[str]:
    """The files, by name, that a lock no longer asks for."""

    def plain(text: str) -> str:
        return re.sub(r"[-_.]+", "-", text).lower()

    wanted = [plain(re.sub(r"\[.*?\]", "", entry.split()[0]).replace("==", "-")) for entry in lock.values()]
    return [name for name in names if not any(re.match(rf"{re.escape(each)}(?![0-9])", plain(name)) for each in wanted)]


def fetch(lock: Lock, folder: Path) -> None:
    """Bring a folder to a lock; a second call does nothing.

    Args:
        lock: the packages.
        folder: where they go; files that the lock does not name are removed.
    """
    stamp = folder.parent / f"{folder.name}.sha256"
    digest = hashlib.sha256(render(lock).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    download(lock, folder)
    for name in outdated(lock, [path.name for path in folder.iterdir()]):
        (folder / name).unlink()
    stamp.write_text(digest)


def for_cpu(lock: Lock, folder: Path) -> Lock:
    """The lock with the build of torch that this machine's pip can reach.

    Args:
        lock: a CPU lock's part that names torch.
        folder: where torch goes.
    """
    chosen = with_cpu_torch(lock)
    name, _, release = str(version(chosen, "torch")).partition("==")
    if any(folder.glob(f"{name}-{release}-*.whl")):
        return chosen
    try:
        download({"torch": chosen["torch"]}, folder)
    except BuildError as failure:
        if "No matching distribution" not in str(failure):
            raise
        say("pip finds no CPU build of torch here, so the images get the CUDA build and its libraries (2 GB more)")
        return {**lock, **read_lock("torch-cuda")}
    return chosen


def build_shoal(folder: Path) -> Path:
    """Build Shoal's wheel from the working tree into a folder, and return it.

    The sources are copied first: setuptools keeps what it built, and deleted modules would stay in later wheels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        source = Path(place)
        for name in ("pyproject.toml", "README.md"):
            shutil.copy2(ROOT / name, source)
        for name in PACKED:
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pyc")
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        options = ["-q", "--no-deps", "-w", str(source / "wheel")]
        # A fixed date: the same sources give the same wheel, and so no new layer.
        environment = {"SOURCE_DATE_EPOCH": "1735689600"}
        must([*PIP, "wheel", *options, str(source)], "building Shoal's wheel", environment)
        (wheel,) = (source / "wheel").glob("shoal-*.whl")
        for old in folder.glob("shoal-*.whl"):
            old.unlink()
        return Path(shutil.copy2(wheel, folder))
