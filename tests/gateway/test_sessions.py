"""Session records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.api.services.common import VersionSpan
from shoal.api.services.models import (
    FinishReason,
    GenerateRequest,
    GenerateResult,
    SamplingParameters,
    SessionSettings,
)
from shoal.api.services.trajectories import Segment
from shoal_workers.gateway.pieces import Pieces
from shoal_workers.gateway.sessions import Sessions, within
from shoal_workers.service import ProblemError
from shoal_workers.tokens.spans import joined, spans_of


def result(tokens: list[int], versions: list[int], reason: FinishReason = FinishReason.STOP) -> GenerateResult:
    logprobs = [-0.5] * len(tokens)
    return GenerateResult(token_ids=tokens, logprobs=logprobs, versions=spans_of(versions), finish_reason=reason)


def test_calls_that_continue_are_one_segment() -> None:
    sessions = Sessions()
    sessions.record("s", [1, 2], result([3, 4], [0, 0]))
    sessions.record("s", [1, 2, 3, 4, 5], result([6], [1]))
    record = sessions.get("s")
    assert record.calls == 2
    (segment,) = record.segments
    assert segment.token_ids == [1, 2, 3, 4, 5, 6]
    assert segment.loss_mask == [0, 0, 1, 1, 0, 1]
    assert segment.logprobs == [0.0, 0.0, -0.5, -0.5, 0.0, -0.5]
    assert segment.versions == [VersionSpan(version=0, start=2, end=4), VersionSpan(version=1, start=5, end=6)]
    assert Segment.model_validate(segment.model_dump())


def test_a_rewritten_context_starts_a_segment() -> None:
    sessions = Sessions()
    sessions.record("s", [1, 2], result([3], [0]))
    sessions.record("s", [1, 9], result([4], [0]))
    assert [segment.token_ids for segment in sessions.get("s").segments] == [[1, 2, 3], [1, 9, 4]]


def test_continues_by_messages() -> None:
    sessions = Sessions()
    said = [{"role": "user", "content": "up"}, {"role": "assistant", "content": "down"}]
    sessions.record("s", [1], result([2], [0]), said)
    new = {"role": "user", "content": "left"}
    assert sessions.continued("s", [said[0], {**said[1], "refusal": None}, new]) == ([1, 2], [new])
    assert sessions.continued("s", said) is None
    assert sessions.continued("s", [said[0], {"role": "assistant", "content": "other"}, new]) is None
    assert sessions.continued("t", [*said, new]) is None


def test_bounded_by_age_and_size() -> None:
    now = [0.0]
    sessions = Sessions(ttl=10, most_tokens=6, clock=lambda: now[0])
    sessions.record("old", [1, 2], result([3], [0]))
    now[0] = 5.0
    sessions.record("b", [1, 2], result([3], [0]))
    now[0] = 11.0
    sessions.record("c", [1], result([2], [0]))
    with pytest.raises(ProblemError, match="unknown-session"):
        sessions.get("old")
    sessions.record("d", [1, 2], result([3], [0]))
    assert len(sessions) == 2
    assert sessions.delete("d")
    assert not sessions.delete("d")


def test_an_opened_session_says_so_and_begins_anew() -> None:
    sessions = Sessions()
    sessions.record("s", [1, 2], result([3], [0]))
    assert not sessions.get("s").opened
    sessions.open("s", SessionSettings())
    sessions.record("s", [1, 2, 3], result([4], [0]))
    record = sessions.get("s")
    assert record.opened
    assert [segment.token_ids for segment in record.segments] == [[1, 2, 3, 4]]


def test_whoever_opened_a_session_decides_how_it_samples() -> None:
    asked = SamplingParameters(max_tokens=50, temperature=0.2, top_p=0.5, stop_token_ids=(7,), seed=1)
    request = GenerateRequest(request_id="r", prompt_token_ids=[1], sampling=asked, min_version=0)
    free = within("s", None, request)
    assert (free.session, free.sampling) == ("s", asked)
    given_ = SamplingParameters(max_tokens=20, temperature=1.0, top_p=1.0, stop_token_ids=(9,))
    bound = within("s", SessionSettings(sampling=given_, min_version=4, run="one"), request)
    assert bound.sampling == SamplingParameters(max_tokens=20, temperature=1.0, top_p=1.0, stop_token_ids=(7, 9))
    assert (bound.session, bound.min_version, bound.run) == ("s", 4, "one")


@given(st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=5))
def test_joined_spans_say_what_single_tokens_say(parts: list[list[int]]) -> None:
    spans = joined((len(part), spans_of(part)) for part in parts)
    flat = [version for part in parts for version in part]
    assert spans == spans_of(flat)
    assert [span.version for span in spans for _ in range(span.start, span.end)] == flat


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 3))
def test_pieces_join_to_one_generation(lengths: list[int], more: int) -> None:
    total = sum(lengths) + more
    sampling = SamplingParameters(max_tokens=total, seed=3)
    pieces = Pieces(GenerateRequest(request_id="r", prompt_token_ids=[100, 101], sampling=sampling))
    expected: list[int] = []
    for number, length in enumerate(lengths):
        rest = pieces.remaining()
        assert rest is not None
        assert rest.prompt_token_ids == [100, 101, *expected]
        assert rest.sampling.max_tokens == total - len(expected)
        tokens = list(range(len(expected), len(expected) + length))
        expected += tokens
        pieces.add(result(tokens, [number] * length, FinishReason.ABORT))
    whole = pieces.result()
    assert whole.token_ids == expected
    assert [span.version for span in whole.versions] == list(range(len(lengths)))
    assert whole.finish_reason is (FinishReason.ABORT if more else FinishReason.LENGTH)
    assert (pieces.remaining() is None) == (more == 0)
