"""Shoal's wheel, as the images install it."""

import zipfile
from pathlib import Path

import pytest

from images.wheels import PACKED, ROOT, build_shoal


@pytest.mark.slow
def test_the_images_wheel_leaves_out_the_embedded_control_plane(tmp_path: Path) -> None:
    with zipfile.ZipFile(build_shoal(tmp_path)) as wheel:
        packed = {name for name in wheel.namelist() if name.endswith(".py")}
    sources = {str(path.relative_to(ROOT / root)) for root in PACKED for path in (ROOT / root).rglob("*.py")}
    assert packed == sources
    assert "shoal/cli/up.py" in packed
