"""One archive of several images: an OCI layout, in which layers that images share lie once, packed as a tar file."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

from images.progress import must, say
from images.tools import Tool

REFERENCE = "org.opencontainers.image.ref.name"
CONTAINERD = "io.containerd.image.name"


def named(index: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """A layout's index with whole image names, which containerd imports as they are; others' entries are dropped."""
    manifests = []
    for entry in index["manifests"]:
        name = entry.get("annotations", {}).get(REFERENCE)
        if name in names:
            manifests.append({**entry, "annotations": {**entry["annotations"], CONTAINERD: name}})
    return {**index, "manifests": manifests}


def pack(layout: Path, archive: Path) -> None:
    """Write a layout as a tar file, its description first."""
    with tarfile.open(archive, "w") as tar:
        for name in ("oci-layout", "index.json"):
            tar.add(layout / name, arcname=name)
        tar.add(layout / "blobs", arcname="blobs")


def identity(inspected: Any) -> str:
    """An image's own id, from what a tool's `inspect` prints."""
    described = inspected[0] if isinstance(inspected, list) else inspected
    return str(described.get("Id") or described["FromImageID"])


def write(tool: Tool, names: list[str], folder: Path) -> Path:
    """Write images as `folder/shoal.tar` and return it; an archive that holds the same images already is left.

    Args:
        tool: what holds the images.
        names: their whole names.
        folder: is made where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    archive, layout, fresh = folder / "shoal.tar", folder / "layout", folder / "shoal.new.tar"
    asked = {name: must(tool.inspect(name), "reading an image", tool.environment()) for name in names}
    content = json.dumps({name: identity(json.loads(text)) for name, text in asked.items()}, indent=1)
    stamp = folder / "shoal.json"
    if archive.exists() and stamp.exists() and stamp.read_text() == content:
        say(f"{archive} holds these images already")
        return archive
    shutil.rmtree(layout, ignore_errors=True)
    for path in (fresh, stamp):
        path.unlink(missing_ok=True)
    say(f"writing {archive}")
    for command in tool.save(names, layout, fresh):
        must(command, "writing images", tool.environment())
    if layout.exists():
        index = layout / "index.json"
        index.write_text(json.dumps(named(json.loads(index.read_text()), names)))
        pack(layout, fresh)
        shutil.rmtree(layout)
    fresh.rename(archive)
    stamp.write_text(content)
    say(f"{archive}: {archive.stat().st_size / 1e6:.0f} MB, {len(names)} images")
    return archive
