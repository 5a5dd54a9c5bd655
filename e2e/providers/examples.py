"""The example's model on this machine, which every provider brings to its cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from shoal.cli.options import default_data_dir

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "frozenlake" / "job.yaml"
MODEL = default_data_dir() / "models" / "frozenlake"
"""Where `shoal run` finds what the manifest has at /var/lib/shoal/models/frozenlake."""


def ensure_model() -> Path:
    """The model's folder; it is built first where it is not there, or was built by another recipe."""
    build = [sys.executable, str(ROOT / "examples" / "frozenlake" / "build_model.py"), "--out", str(MODEL)]
    subprocess.run(build, check=True, capture_output=True)
    return MODEL
