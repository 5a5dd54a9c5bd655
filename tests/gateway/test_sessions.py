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
from shoal.api.services.tree import Segment, check_tree, full_tokens
from shoal_workers.gateway.branches import Tree
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
    first, second = sessions.get("s").segments
    assert (first.token_ids, first.parent, first.shared) == ([1, 2, 3], None, 0)
    assert (second.token_ids, second.parent, second.shared) == ([9, 4], 0, 1)
    assert full_tokens([first, second], 1) == [1, 9, 4]


def test_continues_by_messages() -> None:
    sessions = Sessions()
    said = [{"role": "user", "content": "up"}, {"role": "assistant", "content": "down"}]
    sessions.record("s", [1], result([2], [0]), said)
    new = {"role": "user", "content": "left"}
    assert sessions.continued("s", [said[0], {**said[1], "refusal": None}, new]) == ([1, 2], [new])
    assert sessions.continued("s", said) is None
    assert sessions.continued("s", [said[0], {"role": "assistant", "content": "other"}, new]) is None
    assert sessions.continued("t", [*said, new]) is None


def test_the_longest_conversation_is_continued_whichever_call_it_was() -> None:
    sessions = Sessions()
    main = [{"role": "user", "content": "up"}, {"role": "assistant", "content": "down"}]
    sessions.record("s", [1], result([2], [0]), main)
    # A sub-agent with another opening, then the main program goes on, then takes its last turn back.
    sub = [{"role": "user", "content": "sub"}, {"role": "assistant", "content": "yes"}]
    sessions.record("s", [7], result([8], [0]), sub)
    longer = [*main, {"role": "user", "content": "left"}, {"role": "assistant", "content": "right"}]
    sessions.record("s", [1, 2, 3], result([4], [0]), longer)
    new = {"role": "user", "content": "again"}
    assert sessions.continued("s", [*longer, new]) == ([1, 2, 3, 4], [new])
    assert sessions.continued("s", [*main, new]) == ([1, 2], [new])
    assert sessions.continued("s", [*sub, new]) == ([7, 8], [new])
    # Tools that were not there make another prompt of the whole.
    assert sessions.continued("s", [*main, new], {"tools": [1]}) is None
    sessions.record("s", [1, 2, 5], result([6], [0]), [*main, new, {"role": "assistant", "content": "ok"}])
    segments = sessions.get("s").segments
    assert [(s.token_ids, s.parent, s.shared) for s in segments] == [
        ([1, 2, 3, 4], None, 0),
        ([7, 8], None, 0),
        ([5, 6], 0, 2),
    ]


@pytest.mark.parametrize(
    "again",
    [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "f", "arguments": '{"b":2,"a":1}'}}],
        },
        {"role": "assistant", "tool_calls": [{"id": "x", "function": {"name": "f", "arguments": {"a": 1, "b": 2}}}]},
        {
            "role": "assistant",
            "content": " ",
            "reasoning": "dropped",
            "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1, "b": 2}'}}],
        },
    ],
)
def test_an_answer_is_known_however_a_program_writes_it_down(again: dict[str, object]) -> None:
    sessions = Sessions()
    asked = [{"role": "user", "content": "up"}]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1, "b": 2}'}}
    answer = {"role": "assistant", "content": "<think>\nso\n</think>\n\n", "tool_calls": [call]}
    sessions.record("s", [1], result([2], [0]), [*asked, answer])
    told = {"role": "tool", "content": "3"}
    assert sessions.continued("s", [*asked, again, told]) == ([1, 2], [told])
    other = {**again, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    assert sessions.continued("s", [*asked, other, told]) is None


@given(st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(1, 3)), max_size=8))
def test_every_call_is_in_the_tree_and_each_sampled_token_once(calls: list[tuple[list[int], int]]) -> None:
    tree, sampled, places = Tree(), 0, []
    for number, (prompt, made) in enumerate(calls):
        answer = result([100 + 10 * number + index for index in range(made)], [number] * made)
        places.append((tree.add(prompt, answer), [*prompt, *answer.token_ids]))
        sampled += made
    segments = tree.segments()
    check_tree(segments)
    assert sum(sum(segment.loss_mask) for segment in segments) == sampled
    assert tree.size == sum(len(segment.token_ids) for segment in segments)
    for (index, length), whole in places:
        assert tree.whole(index, length).tolist() == whole
        assert full_tokens(segments, index)[:length] == whole
    seen: set[tuple[int, ...]] = set()
    for _, whole in places:
        seen |= {tuple(whole[:length]) for length in range(1, len(whole) + 1)}
    # What begins alike stands there once.
    assert tree.size == len(seen)


def test_no_live_session_is_dropped_and_no_more_begin_than_can_be_held() -> None:
    now = [0.0]
    sessions = Sessions(ttl=10, most_tokens=6, clock=lambda: now[0])
    sessions.record("old", [1, 2], result([3], [0]))
    now[0] = 5.0
    sessions.open("b", SessionSettings())
    sessions.record("b", [1, 2], result([3, 4], [0, 0]))
    for refused in (lambda: sessions.admit("c"), lambda: sessions.open("c", SessionSettings())):
        with pytest.raises(ProblemError, match="sessions-full") as full:
            refused()
        assert full.value.status == 429
    # Those that are there go on, and lose nothing.
    sessions.admit("b")
    sessions.record("b", [1, 2, 3, 4], result([5] * 9, [0] * 9))
    assert len(sessions) == 2
    now[0] = 11.0
    with pytest.raises(ProblemError, match="sessions-full"):
        sessions.admit("c")
    with pytest.raises(ProblemError, match="unknown-session"):
        sessions.get("old")
    assert sessions.delete("b")
    sessions.admit("c")
    assert not sessions.delete("b")


def test_an_opened_session_says_so_and_begins_anew() -> None:
    sessions = Sessions()
    sessions.record("s", [1, 2], result([3], [0]))
    assert not sessions.get("s").opened
    sessions.open("s", SessionSettings())
    sessions.record("s", [1, 2, 3], result([4], [0]))
    record = sessions.get("s")
    assert record.opened
    assert [segment.token_ids for segment in record.segments] == [[1, 2, 3, 4]]
    # Asked again, because the answer was lost: nothing changes. Asked otherwise: refused.
    sessions.open("s", SessionSettings())
    assert sessions.get("s").calls == 1
    with pytest.raises(ProblemError, match="session-open"):
        sessions.open("s", SessionSettings(sampling=SamplingParameters(temperature=0.0)))


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
