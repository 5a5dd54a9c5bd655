"""The example's model on this machine, which every provider brings to its cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "frozenlake" / "job.yaml"
MODEL = Path("/tmp/shoal/models/frozenlake")


def ensure_model() -> Path:
    """The model's folder; it is built first where it is not there, or was built by another recipe."""
    build = [sys.executable, str(ROOT / "examples" / "frozenlake" / "build_model.py"), "--out", str(MODEL)]
    subprocess.run(build, check=True, capture_output=True)
    return MODEL
