"""Events of a watch, decoded from the lines of its answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum

import orjson

from shoal.kube.errors import UnavailableError, error_from_status
from shoal.kube.resources import Json


class EventType(StrEnum):
    """What happened to the object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One event. A BOOKMARK's object carries a resourceVersion alone."""

    type: EventType
    object: Json

    @property
    def resource_version(self) -> str:
        """The version from which a new watch goes on after this event."""
        return str(self.object["metadata"]["resourceVersion"])


async def split_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Split a stream into lines of any length (the reader of aiohttp refuses lines longer than its buffer).

    What follows the last line end is dropped: the server was cut off in the middle of it.
    """
    rest: list[bytes] = []
    async for chunk in chunks:
        head, *lines = chunk.split(b"\n")
        rest.append(head)
        if not lines:
            continue
        first, rest = b"".join(rest), [lines.pop()]
        for line in (first, *lines):
            if line:
                yield line


def decode_event(line: bytes) -> WatchEvent:
    """Decode one line. An ERROR event raises its typed error (`GoneError` when the version is too old)."""
    try:
        event = orjson.loads(line)
        kind, body = event["type"], event["object"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise UnavailableError(f"watch: not an event: {line[:200]!r}") from error
    if kind == "ERROR":
        raise error_from_status(int(body.get("code") or 500), body, what="watch")
    return WatchEvent(EventType(kind), body)
