"""Weight-version spans: which version sampled which token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shoal.api.services.common import VersionSpan


def spans_of(versions: Sequence[int]) -> list[VersionSpan]:
    """Spans of a version per token."""
    spans: list[VersionSpan] = []
    start = 0
    for index in range(1, len(versions) + 1):
        if index == len(versions) or versions[index] != versions[start]:
            spans.append(VersionSpan(version=versions[start], start=start, end=index))
            start = index
    return spans


def joined(parts: Iterable[tuple[int, Sequence[VersionSpan]]]) -> list[VersionSpan]:
    """Spans of pieces laid end to end; each piece is its number of tokens and its own spans. Equal neighbours merge."""
    result: list[VersionSpan] = []
    offset = 0
    for length, spans in parts:
        for span in spans:
            start, end = span.start + offset, span.end + offset
            if start == end:
                continue
            if result and result[-1].version == span.version and result[-1].end == start:
                start = result.pop().start
            result.append(VersionSpan.model_construct(version=span.version, start=start, end=end))
        offset += length
    return result
