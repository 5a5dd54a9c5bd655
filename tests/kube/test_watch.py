"""Lines of a watch: cut in any way, they come out whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.kube.errors import GoneError, UnavailableError
from shoal.kube.watch import EventType, decode_event, split_lines


async def collect(chunks: list[bytes]) -> list[bytes]:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return [line async for line in split_lines(stream())]


LINES = st.lists(st.binary(min_size=1, max_size=20).filter(lambda line: b"\n" not in line), max_size=8)


@given(lines=LINES, cuts=st.lists(st.integers(0, 200), max_size=12), tail=st.binary(max_size=5))
async def test_any_cutting_gives_the_same_lines(lines: list[bytes], cuts: list[int], tail: bytes) -> None:
    tail = tail.replace(b"\n", b"")
    whole = b"".join(line + b"\n" for line in lines) + tail
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    chunks = [whole[start:end] for start, end in pairwise(places)]
    assert await collect(chunks) == lines


async def test_a_line_may_be_longer_than_any_buffer() -> None:
    assert await collect([b"x" * 100_000] * 30 + [b"\n"]) == [b"x" * 3_000_000]


def test_events_are_typed_and_errors_raised() -> None:
    event = decode_event(b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7"}}}')
    assert (event.type, event.resource_version) == (EventType.BOOKMARK, "7")
    with pytest.raises(GoneError):
        decode_event(b'{"type":"ERROR","object":{"code":410,"reason":"Expired","message":"too old"}}')
    with pytest.raises(UnavailableError, match="not an event"):
        decode_event(b'{"type": ')
