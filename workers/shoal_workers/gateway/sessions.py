"""Records of sessions: the tokens of an episode's model calls, joined where one prompt continues the last."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from shoal.api.services.common import VersionSpan
from shoal.api.services.models import (
    GenerateRequest,
    GenerateResult,
    SessionRecord,
    SessionSegment,
    SessionSettings,
)
from shoal_workers.service import ProblemError
from shoal_workers.tokens.spans import joined

# A session that nobody has called or read for this long belongs to an agent that is gone.
TTL_SECONDS = 3600.0
# All records together: half a GiB, at the 13 bytes of a token, its mask and its log-probability, and messages beside.
MOST_TOKENS = 32_000_000

Messages = Sequence[Mapping[str, Any]]


def within(session: str, settings: SessionSettings | None, request: GenerateRequest) -> GenerateRequest:
    """The call as its session makes it: whoever opened the session, not the program in it, decides how to sample."""
    if settings is None:
        return request.model_copy(update={"session": session})
    own, given = request.sampling, settings.sampling
    sampling = own.model_copy(
        update={
            "max_tokens": min(own.max_tokens, given.max_tokens),
            "temperature": given.temperature,
            "top_p": given.top_p,
            "seed": given.seed,
            "stop_token_ids": (*own.stop_token_ids, *given.stop_token_ids),
        }
    )
    update = {"session": session, "sampling": sampling, "min_version": settings.min_version, "run": settings.run}
    return request.model_copy(update=update)


@dataclass(slots=True)
class _Segment:
    """Arrays of machine numbers: lists of them would take six times the memory."""

    tokens: array[int] = field(default_factory=lambda: array("i"))
    mask: array[int] = field(default_factory=lambda: array("b"))
    logprobs: array[float] = field(default_factory=lambda: array("d"))
    spans: list[VersionSpan] = field(default_factory=list)

    def begins(self, prompt: Sequence[int]) -> bool:
        """Whether the prompt goes on from here."""
        return array("i", prompt[: len(self.tokens)]) == self.tokens

    def extend(self, prompt: Sequence[int], result: GenerateResult) -> None:
        given = prompt[len(self.tokens) :]
        before = len(self.tokens) + len(given)
        self.tokens.extend(given)
        self.tokens.extend(result.token_ids)
        self.mask.extend([0] * len(given) + [1] * len(result.token_ids))
        self.logprobs.extend([0.0] * len(given))
        self.logprobs.extend(result.logprobs)
        self.spans = joined([(before, self.spans), (len(result.token_ids), result.versions)])


@dataclass(slots=True)
class _Session:
    segments: list[_Segment] = field(default_factory=list)
    messages: list[Mapping[str, Any]] = field(default_factory=list)
    settings: SessionSettings | None = None
    calls: int = 0
    touched: float = 0.0

    @property
    def tokens(self) -> int:
        return sum(len(segment.tokens) for segment in self.segments)


class Sessions:
    """Session records, the least recently used dropped first when they grow too large or too old."""

    def __init__(
        self, ttl: float = TTL_SECONDS, most_tokens: int = MOST_TOKENS, clock: Callable[[], float] = monotonic
    ) -> None:
        self._ttl = ttl
        self._most_tokens = most_tokens
        self._clock = clock
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._tokens = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, name: str, settings: SessionSettings) -> None:
        """Begin a session; one of that name is replaced, its record with it."""
        self.delete(name)
        self._touch(name, self._sessions.setdefault(name, _Session(settings=settings)))

    def settings(self, name: str) -> SessionSettings | None:
        """The settings of an opened session."""
        session = self._sessions.get(name)
        return session.settings if session else None

    def record(
        self, name: str, prompt: Sequence[int], result: GenerateResult, messages: Messages | None = None
    ) -> None:
        """Add a call. A prompt that begins with all of the last segment's tokens continues it; others start a new one.

        `messages` is the conversation up to and with the policy's answer, where the call was made in messages.
        """
        session = self._sessions.setdefault(name, _Session())
        before = session.tokens
        last = session.segments[-1] if session.segments else None
        if last is None or not last.begins(prompt):
            last = _Segment()
            session.segments.append(last)
        last.extend(prompt, result)
        session.calls += 1
        session.messages = list(messages or ())
        self._tokens += session.tokens - before
        self._touch(name, session)
        self._shrink()

    def continued(self, name: str, messages: Messages) -> tuple[list[int], Messages] | None:
        """Where `messages` go on from the recorded conversation: its exact tokens, and the messages that are new."""
        session = self._sessions.get(name)
        if session is None or not session.segments or not session.messages:
            return None
        known = len(session.messages)
        if len(messages) <= known or [_plain(m) for m in messages[:known]] != [_plain(m) for m in session.messages]:
            return None
        return session.segments[-1].tokens.tolist(), messages[known:]

    def get(self, name: str) -> SessionRecord:
        """The record; raises ProblemError `unknown-session` (404)."""
        session = self._sessions.get(name)
        if session is None:
            raise ProblemError("unknown-session", f"no session {name}", status=404)
        self._touch(name, session)
        segments = [
            SessionSegment(
                token_ids=s.tokens.tolist(), loss_mask=s.mask.tolist(), logprobs=s.logprobs.tolist(), versions=s.spans
            )
            for s in session.segments
        ]
        return SessionRecord(
            id=name,
            opened=session.settings is not None,
            segments=segments,
            calls=session.calls,
            messages=[dict(m) for m in session.messages],
        )

    def delete(self, name: str) -> bool:
        """Forget a session; whether there was one."""
        session = self._sessions.pop(name, None)
        if session is not None:
            self._tokens -= session.tokens
        return session is not None

    def _touch(self, name: str, session: _Session) -> None:
        session.touched = self._clock()
        self._sessions.move_to_end(name)

    def _shrink(self) -> None:
        oldest = self._clock() - self._ttl
        while self._sessions:
            name, session = next(iter(self._sessions.items()))
            if session.touched >= oldest and (self._tokens <= self._most_tokens or len(self._sessions) == 1):
                return
            self.delete(name)


def _plain(message: Mapping[str, Any]) -> tuple[Any, Any]:
    """What identifies a message; frameworks add and drop other fields between turns."""
    return message.get("role"), message.get("content")
