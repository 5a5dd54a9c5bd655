"""What safetensors files hold, read from their headers and bytes: names, shapes, types, and whether values are finite.

No deep-learning library: a version of many gigabytes is looked through beside serving, a few megabytes at a time.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

_CHUNK_BYTES = 8 << 20
_LONGEST_HEADER = 100 << 20
"""What the safetensors library itself accepts; more is a file of another kind."""

# A floating-point value is infinite or no number where all bits of its exponent are set (e4m3fn: all but the sign).
_NOT_FINITE: Mapping[str, tuple[Any, int]] = {
    "F64": (numpy.uint64, 0x7FF0 << 48),
    "F32": (numpy.uint32, 0x7F80 << 16),
    "F16": (numpy.uint16, 0x7C00),
    "BF16": (numpy.uint16, 0x7F80),
    "F8_E5M2": (numpy.uint8, 0x7C),
    "F8_E4M3": (numpy.uint8, 0x7F),
}
# Engines convert between these while they load; any other change of type is another model.
_CONVERTED = frozenset({"F32", "F16", "BF16"})
_BUFFERS = re.compile(r"rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$")
"""Computed values that old checkpoints hold and new ones do not."""


class TensorsError(ValueError):
    """The files do not hold the model's tensors; the text names file and tensor."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor: its file, type (safetensors' name), shape, and where its bytes lie in the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def tensors_of(folder: Path) -> dict[str, TensorEntry]:
    """Every tensor in the folder's safetensors files; raises TensorsError for a file that is none, or a name twice."""
    found: dict[str, TensorEntry] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, entry in _header(file).items():
            if name in found:
                raise TensorsError(f"{file}: {name} is in {found[name].file.name} as well")
            found[name] = entry
    return found


def check_tensors(
    found: Mapping[str, TensorEntry], model: Mapping[str, TensorEntry], optional: Sequence[str] = ()
) -> None:
    """Raise TensorsError where a version is not of the model: names, shapes, types.

    `optional` are patterns of names that one side may lack. A version most of whose names the model's own files do not
    have is written in another naming (a text model out of a larger one): only what has a common name is compared.
    """
    common = found.keys() & model.keys()
    for name in sorted(common):
        _check_entry(name, found[name], model[name])
    if 2 * len(common) < len(found):
        return
    allowed = [_BUFFERS, *map(re.compile, optional)]
    for names, says in ((model.keys() - found.keys(), "is missing"), (found.keys() - model.keys(), "is not in it")):
        wrong = sorted(name for name in names if not any(pattern.search(name) for pattern in allowed))
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            place = found[wrong[0]].file.name if wrong[0] in found else "model"
            raise TensorsError(f"{place}: tensor {wrong[0]}{more}: {says}, by the original model's files")


def check_finite(tensors: Mapping[str, TensorEntry]) -> None:
    """Raise TensorsError naming the first tensor that holds an infinity or NaN."""
    for name, entry in tensors.items():
        position = first_not_finite(entry)
        if position is not None:
            raise TensorsError(f"{entry.file.name}: tensor {name}: value {position} is not finite")


def first_not_finite(entry: TensorEntry) -> int | None:
    """Index of the first value that is infinite or NaN; None where there is none, or the type cannot hold any."""
    if entry.dtype not in _NOT_FINITE or entry.start == entry.end:
        return None
    kind, bits = _NOT_FINITE[entry.dtype]
    size: int = numpy.dtype(kind).itemsize
    with entry.file.open("rb") as file:
        file.seek(entry.start)
        for offset in range(entry.start, entry.end, _CHUNK_BYTES):
            values = numpy.frombuffer(file.read(min(_CHUNK_BYTES, entry.end - offset)), kind)
            wrong = (values & kind(bits)) == kind(bits)
            if wrong.any():
                return (offset - entry.start) // size + int(wrong.argmax())
    return None


def optional_names(config: Mapping[str, Any]) -> list[str]:
    """Patterns of names that a saved model may lack: a tied output layer, and what transformers passes over."""
    optional = [r"lm_head\.weight$"] if config.get("tie_word_embeddings") else []
    try:
        import transformers
    except ImportError:
        return optional
    for name in config.get("architectures") or ():
        model: Any = getattr(transformers, str(name), None)
        optional += getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    return optional


def _check_entry(name: str, found: TensorEntry, model: TensorEntry) -> None:
    if found.shape != model.shape:
        raise TensorsError(
            f"{found.file.name}: tensor {name}: has shape {list(found.shape)}, the model's is {list(model.shape)}"
        )
    if found.dtype != model.dtype and not {found.dtype, model.dtype} <= _CONVERTED:
        raise TensorsError(f"{found.file.name}: tensor {name}: is {found.dtype}, the model's is {model.dtype}")


def _header(file: Path) -> dict[str, TensorEntry]:
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > min(_LONGEST_HEADER, size - 8):
                raise ValueError("its header is longer than the file")
            header = json.loads(opened.read(length))
        entries = {name: _entry(file, 8 + length, value) for name, value in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise TensorsError(f"{file}: is no safetensors file: {error}") from None
    _check_ends(file, size, entries.values())
    return entries


def _check_ends(file: Path, size: int, entries: Collection[TensorEntry]) -> None:
    end = max((entry.end for entry in entries), default=0)
    if end > size:
        raise TensorsError(f"{file}: is cut off: its tensors need {end} bytes, it has {size}")


def _entry(file: Path, base: int, value: Mapping[str, Any]) -> TensorEntry:
    start, end = value["data_offsets"]
    return TensorEntry(file, str(value["dtype"]), tuple(value["shape"]), base + int(start), base + int(end))
