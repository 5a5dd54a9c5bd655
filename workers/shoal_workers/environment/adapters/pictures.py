"""Observations that are pictures: found by their form, and made PNG files for harnesses that read them."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping
from typing import Any

from shoal_workers.environment.render import TemplateError

# More than a board game's or a sensor's; a model reads nothing in 90,000 numbers.
MOST_NUMBERS = 1024

_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels -> PNG's colour type: grey, grey with alpha, RGB, RGBA."""


def split(value: Any, path: str = "observation") -> tuple[Any, dict[str, dict[str, str]]]:
    """The observation without its pictures, and the pictures by path."""
    if isinstance(value, Mapping):
        parts = {key: split(item, f"{path}.{key}") for key, item in value.items()}
        kept = {key: rest for key, (rest, _) in parts.items() if rest is not None}
        return kept, {name: picture for _, found in parts.values() for name, picture in found.items()}
    if isinstance(value, tuple):
        several = [split(item, f"{path}.{index}") for index, item in enumerate(value)]
        found = {name: picture for _, pictures in several for name, picture in pictures.items()}
        return tuple(rest for rest, _ in several if rest is not None), found
    if is_picture(value):
        return None, {path: {"media_type": "image/png", "data": base64.b64encode(png(value)).decode()}}
    return value, {}


def is_picture(value: Any) -> bool:
    """Whether this is an array of bytes in two or three dimensions, too large to be read as numbers."""
    shape: tuple[int, ...] = getattr(value, "shape", ())
    dtype = str(getattr(value, "dtype", ""))
    if dtype != "uint8" or value.size <= MOST_NUMBERS:
        return False
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in _COLOURS)


def check_size(value: Any, path: str = "observation") -> None:
    """Raises TemplateError naming a part of more than MOST_NUMBERS numbers, with what could be done about it."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_size(item, f"{path}.{key}")
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            check_size(item, f"{path}.{index}")
    elif (size := getattr(value, "size", 0)) > MOST_NUMBERS:
        shape = " x ".join(str(length) for length in value.shape)
        raise TemplateError(
            f"{path} has {shape} {value.dtype} values, which as text would be {size} numbers: name what a model shall "
            "read in `template` or `attributes`, or set `images: true` to send pictures to harnesses that read them"
        )


def png(array: Any) -> bytes:
    """A PNG file of an array of bytes, height x width or height x width x 1 to 4 channels."""
    height, width = array.shape[:2]
    channels = array.shape[2] if array.ndim == 3 else 1
    rows = array.reshape(height, width * channels)
    # Each row after a byte for its filter: none.
    raw = b"".join(b"\x00" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(raw, 6)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
