"""Kubernetes quantities ("500m", "64Mi", "1e3") as numbers."""

from __future__ import annotations

import re

_QUANTITY = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d+)|([numkMGTPE]|[KMGTPE]i)?)$")
_SUFFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0}
_SUFFIXES |= {letter: 1000.0**power for power, letter in enumerate("kMGTPE", 1)}
_SUFFIXES |= {f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", 1)}


def parse_quantity(text: str | int | float) -> float:
    """Return the number; raises `ValueError` for what is no quantity."""
    match = _QUANTITY.match(str(text).strip())
    if match is None:
        raise ValueError(f"{text!r} is not a quantity such as 500m or 64Mi")
    number, exponent, suffix = match.groups()
    if exponent is not None:
        return float(number) * float(10 ** int(exponent))
    return float(number) * _SUFFIXES[suffix or ""]
