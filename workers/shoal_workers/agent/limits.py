"""What a program's error says of a limit that it ran into: no defect of the program, and nobody's fault."""

from collections.abc import Iterator
from enum import StrEnum


class Limit(StrEnum):
    """A limit of the model's service."""

    CONTEXT = "context"
    BUSY = "busy"


_CONTEXT_WORDS = ("max_model_len", "context_length", "context length", "maximum model length", "maximum input length")
"""What engines and their clients say of a prompt that does not fit: Shoal's engines, OpenAI's API, vLLM."""
_BUSY_STATUSES = (429, 503)


def limit_of(error: BaseException) -> Limit | None:
    """The limit that an error, or what it was raised from, tells of; by HTTP status, as every OpenAI client has it."""
    for each in _chain(error):
        status = getattr(each, "status_code", getattr(each, "status", None))
        if status in _BUSY_STATUSES:
            return Limit.BUSY
        if status in (400, 413, 422) and any(word in str(each).lower() for word in _CONTEXT_WORDS):
            return Limit.CONTEXT
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__
