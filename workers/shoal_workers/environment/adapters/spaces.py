"""Gymnasium's action spaces for a model: which text is which action, and how to say so.

| space | text |
|---|---|
| Discrete, up to NAMED of them | a number by itself, as a name (see actions.py) |
| Discrete, more | the last whole number of the text |
| Box, MultiDiscrete, MultiBinary | as many numbers as the space has, in order |
| Text | the whole text |
| Tuple, Dict, Sequence, OneOf and what is nested | JSON; the last value of that kind in the text counts |

A tuple of flat spaces takes its numbers in order, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from shoal_workers.environment.actions import numbers
from shoal_workers.environment.adapter import InvalidActionError

# A pattern of more names costs more to search for than the numbers in a text.
NAMED = 1000

_WHOLE = re.compile(r"(?<![\w.])[-+]?\d+(?!\.?\w)")
_FLAT = frozenset({"Box", "MultiDiscrete", "MultiBinary"})
_SHOWN = 120


def kind(space: Any) -> str:
    """The space's class by name, so that a subclass of Gymnasium's own counts as that."""
    known = {"Discrete", "Text", "Tuple", "Dict", "Sequence", "OneOf", *_FLAT}
    return next((base.__name__ for base in type(space).__mro__ if base.__name__ in known), type(space).__name__)


def from_text(space: Any, text: str) -> Any:
    """The action that the text is; raises InvalidActionError saying what would be accepted."""
    name = kind(space)
    if name == "Text":
        return from_value(space, text.strip())
    if name == "Discrete":
        found = _WHOLE.findall(text)
        if not found:
            raise InvalidActionError(f"{_short(text)} has no whole number; {describe(space)}")
        return from_value(space, int(found[-1]))
    if name in _FLAT:
        return from_value(space, numbers(text, int(np.prod(space.shape or (1,)))))
    value = _last_json(text, dict if name == "Dict" else list)
    if value is None and name == "Tuple" and all(kind(part) in _FLAT | {"Discrete"} for part in space.spaces):
        return from_value(space, _parts(space, text))
    if value is None:
        raise InvalidActionError(f"{_short(text)} has no JSON of the action; {describe(space)}")
    return from_value(space, value)


def from_value(space: Any, value: Any) -> Any:
    """The action that plain JSON stands for, in the space's own types; raises InvalidActionError."""
    try:
        made = _CONVERSIONS.get(kind(space), lambda _, given: given)(space, value)
        fits = space.contains(made)
    except InvalidActionError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise InvalidActionError(f"{_short(value)}: {error}; {describe(space)}") from None
    if not fits:
        raise InvalidActionError(f"{_short(value)} is not in the action space; {describe(space)}")
    return made


def describe(space: Any) -> str:
    """What the space takes, in words for a model and its engineer."""
    name = kind(space)
    if name in ("Tuple", "Dict", "Sequence", "OneOf"):
        return f"answer with JSON: {_grammar(space)}"
    return f"answer with {_grammar(space)}"


def needs_telling(space: Any) -> bool:
    """Whether no model could guess what the space takes from its observations alone."""
    name = kind(space)
    return name not in _FLAT and not (name == "Discrete" and space.n <= NAMED)


def schema(space: Any) -> dict[str, Any]:
    """JSON schema of an action in the space's own form."""
    name = kind(space)
    if name == "Discrete":
        return {"type": "integer", "minimum": int(space.start), "maximum": int(space.start + space.n - 1)}
    if name == "Text":
        return {"type": "string", "minLength": int(space.min_length), "maxLength": int(space.max_length)}
    if name == "Dict":
        fields = {key: schema(part) for key, part in space.spaces.items()}
        return {"type": "object", "properties": fields, "required": list(fields)}
    if name == "Tuple":
        parts = [schema(part) for part in space.spaces]
        return {"type": "array", "prefixItems": parts, "minItems": len(parts), "maxItems": len(parts)}
    if name == "Sequence":
        return {"type": "array", "items": schema(space.feature_space)}
    if name in _FLAT:
        return _array_schema(name, space.shape)
    return {"description": str(space)}


def _array_schema(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": "number" if name == "Box" else "integer"}
    for size in reversed(shape):
        inner = {"type": "array", "items": inner, "minItems": size, "maxItems": size}
    return inner


def _grammar(space: Any) -> str:
    name = kind(space)
    if name == "Discrete":
        return f"a whole number from {int(space.start)} to {int(space.start + space.n - 1)}"
    if name == "Text":
        letters = "".join(sorted(space.characters))
        which = "letters and digits" if letters.isalnum() and len(letters) == 62 else repr(_cut(letters))
        return f"a text of {space.min_length} to {space.max_length} characters out of {which}"
    if name == "Box":
        low, high = float(np.min(space.low)), float(np.max(space.high))
        return f"a list of {_sizes(space)} numbers from {low:g} to {high:g}" if space.shape else "a number"
    if name == "MultiDiscrete":
        tops = ", ".join(str(int(top)) for top in np.ravel(space.nvec + space.start - 1))
        return f"a list of {_sizes(space)} whole numbers, at most {_cut(tops)}"
    if name == "MultiBinary":
        return f"a list of {_sizes(space)} numbers, each 0 or 1"
    if name == "Dict":
        return "{" + ", ".join(f'"{key}": {_grammar(part)}' for key, part in space.spaces.items()) + "}"
    if name == "Tuple":
        return "[" + ", ".join(_grammar(part) for part in space.spaces) + "]"
    if name == "Sequence":
        return f"a list, each of it {_grammar(space.feature_space)}"
    if name == "OneOf":
        options = "; ".join(f"{index}: {_grammar(part)}" for index, part in enumerate(space.spaces))
        return f"[which, value] with one of {options}"
    return str(space)


def _sizes(space: Any) -> str:
    return " x ".join(str(size) for size in space.shape)


def _whole(space: Any, value: Any) -> Any:
    if isinstance(value, bool) or float(value) != int(value):
        raise InvalidActionError(f"{_short(value)} is not a whole number; {describe(space)}")
    return int(value)


def _array(space: Any, value: Any) -> Any:
    given = np.asarray(value, dtype=np.float64)
    if not np.issubdtype(space.dtype, np.floating) and not np.array_equal(given, np.trunc(given)):
        raise InvalidActionError(f"{_short(value)} are not whole numbers; {describe(space)}")
    return given.astype(space.dtype).reshape(space.shape)


def _text(space: Any, value: Any) -> Any:
    if not isinstance(value, str):
        raise InvalidActionError(f"{_short(value)} is not a text; {describe(space)}")
    wrong = sorted(set(value) - set(space.characters))
    if wrong:
        raise InvalidActionError(f"{_short(value)} has {''.join(wrong)!r}; {describe(space)}")
    return value


def _dict(space: Any, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise InvalidActionError(f"{_short(value)} is not an object; {describe(space)}")
    missing = [str(key) for key in space.spaces if key not in value and str(key) not in value]
    extra = [str(key) for key in value if key not in {*space.spaces, *map(str, space.spaces)}]
    if missing or extra:
        wrong = [f"has no {', '.join(missing)}"] * bool(missing) + [f"has an unknown {', '.join(extra)}"] * bool(extra)
        raise InvalidActionError(f"the action {' and '.join(wrong)}; {describe(space)}")
    return {key: from_value(part, value.get(key, value.get(str(key)))) for key, part in space.spaces.items()}


def _tuple(space: Any, value: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != len(space.spaces):
        raise InvalidActionError(f"{_short(value)} is not a list of {len(space.spaces)}; {describe(space)}")
    return tuple(from_value(part, item) for part, item in zip(space.spaces, value, strict=True))


def _sequence(space: Any, value: Any) -> Any:
    items = tuple(from_value(space.feature_space, item) for item in value)
    return np.asarray(items) if getattr(space, "stack", False) else items


def _one_of(space: Any, value: Any) -> Any:
    which, inner = value
    return np.int64(which), from_value(space.spaces[int(which)], inner)


_CONVERSIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "Discrete": _whole,
    "Box": _array,
    "MultiDiscrete": _array,
    "MultiBinary": _array,
    "Text": _text,
    "Dict": _dict,
    "Tuple": _tuple,
    "Sequence": _sequence,
    "OneOf": _one_of,
}


def _parts(space: Any, text: str) -> list[Any]:
    counts = [1 if kind(part) == "Discrete" else int(np.prod(part.shape or (1,))) for part in space.spaces]
    found = numbers(text, sum(counts))
    values: list[Any] = []
    for part, count in zip(space.spaces, counts, strict=True):
        taken, found = found[:count], found[count:]
        values.append(taken[0] if kind(part) == "Discrete" else taken)
    return values


def _last_json(text: str, wanted: type) -> Any:
    """The last complete JSON value of the type in a text that a model wrote around it; None without one."""
    decoder, found, start = json.JSONDecoder(), None, 0
    opening = "{" if wanted is dict else "["
    while (start := text.find(opening, start)) >= 0:
        try:
            found, start = decoder.raw_decode(text, start)
        except ValueError:
            start += 1
    return found


def _short(value: Any) -> str:
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
