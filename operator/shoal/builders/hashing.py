"""A short, stable hash of a JSON value."""

import hashlib
from typing import Any

import orjson


def spec_hash(value: Any) -> str:
    """Sixteen hexadecimal digits that differ when the value does; key order does not matter."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
