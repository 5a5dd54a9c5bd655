"""The operator's image, built for real: what it holds, who runs in it, what its program says."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from images import archive
from images.plan import ML_LIBRARIES
from images.tools import Tool

ROOT = Path(__file__).resolve().parents[2]
MISSING = [program for program in ("buildah", "mmdebstrap") if shutil.which(program) is None]
NAME = "docker.io/shoal/operator:test"


def must(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
@pytest.mark.skipif(os.geteuid() != 0, reason="building without a container runtime needs root")
def test_builds_the_operators_image(tmp_path: Path) -> None:
    tool = Tool("buildah", tmp_path / "storage", "overlay")
    build = [
        sys.executable,
        "-m",
        "images",
        "build",
        "operator",
        "--tool",
        "buildah",
        "--base",
        "mmdebstrap",
        "--tag",
        "test",
    ]
    build += ["--storage", str(tool.storage), "--storage-driver", "overlay", "--output", str(tmp_path)]
    said = must(*build)
    assert f"{NAME} holds aiohappyeyeballs==" in said
    written = (tmp_path / "shoal.tar").stat().st_mtime_ns
    assert archive.write(tool, [NAME], tmp_path).stat().st_mtime_ns == written

    with tarfile.open(tmp_path / "shoal.tar") as tar:
        config = image_config(tar)
    assert config["User"] == "65532:65532"
    assert config["Cmd"] == ["shoal", "operator"]
    assert "HOME=/tmp" in config["Env"]

    container = must(*tool.start(), "from", NAME).strip()
    try:
        inside = [*tool.start(), "run", "--isolation", "chroot", container]
        assert must(*inside, "id", "-u", "-n").strip() == "shoal"
        assert "--leader-elect" in must(*inside, "shoal", "operator", "--help")
        listed = must(
            *inside, "python", "-c", "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
        )
        assert not set(listed.split()) & set(ML_LIBRARIES)
        assert "shoal" in listed.split()
    finally:
        must(*tool.start(), "rm", container)


def image_config(tar: tarfile.TarFile) -> dict[str, Any]:
    """The configuration of an archive's only image."""

    def read(name: str) -> Any:
        file = tar.extractfile(name)
        assert file is not None
        return json.load(file)

    (entry,) = read("index.json")["manifests"]
    manifest = read("blobs/" + entry["digest"].replace(":", "/"))
    config: dict[str, Any] = read("blobs/" + manifest["config"]["digest"].replace(":", "/"))["config"]
    return config
