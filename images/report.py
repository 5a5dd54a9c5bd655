"""What the images weigh and share. Pure but for asking the tool."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from images.plan import Image
from images.progress import must
from images.tools import Tool


def size_of(inspected: Any) -> int:
    """Bytes of an image's layers, from what a tool's `inspect` prints."""
    described = inspected[0] if isinstance(inspected, list) else inspected
    if "Size" in described:
        return int(described["Size"])
    return sum(int(layer["size"]) for layer in json.loads(described["Manifest"])["layers"])


def sizes(tool: Tool, names: Mapping[str, str]) -> dict[str, int]:
    """Bytes of each image.

    Args:
        tool: what holds the images.
        names: image -> whole name.
    """
    environment = tool.environment()
    return {
        image: size_of(json.loads(must(tool.inspect(name), "reading sizes", environment)))
        for image, name in names.items()
    }


def table(images: Sequence[Image], weights: Mapping[str, int]) -> str:
    """The images as lines: size, what of it the parents hold, what is the image's own.

    Args:
        images: parents first.
        weights: bytes by image.
    """
    lines = [f"{'image':<14}{'size':>10}{'own':>10}  stands on"]
    for image in images:
        size = weights[image.name]
        own = size - weights.get(image.parent, 0)
        kind = image.name if image.role else f"({image.name})"
        lines.append(f"{kind:<14}{size / 1e6:>7.0f} MB{own / 1e6:>7.0f} MB  {image.parent or 'the base'}")
    roles = [image for image in images if image.role]
    stored = sum(weights[image.name] - weights.get(image.parent, 0) for image in images)
    apart = sum(weights[image.name] for image in roles)
    lines.append(f"{len(roles)} images: {stored / 1e6:.0f} MB together; without shared layers {apart / 1e6:.0f} MB")
    return "\n".join(lines)
