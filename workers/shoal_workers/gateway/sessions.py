"""Records of sessions: the tokens of an episode's model calls, and the conversations that they belong to."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from shoal.api.services.models import (
    GenerateRequest,
    GenerateResult,
    SessionRecord,
    SessionSettings,
)
from shoal_workers.gateway.branches import Tree
from shoal_workers.service import ProblemError
from shoal_workers.tokens.messages import identity

# A session that nobody has called or read for this long belongs to an agent that is gone.
TTL_SECONDS = 3600.0
# All records together: at most 1.5 GB, at the 12 bytes of a sampled token and its log-probability.
MOST_TOKENS = 120_000_000

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
class _Session:
    tree: Tree = field(default_factory=Tree)
    states: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    """Conversations by their digest, each up to an answer: the branch and length of its exact tokens."""
    messages: list[Mapping[str, Any]] = field(default_factory=list)
    settings: SessionSettings | None = None
    calls: int = 0
    touched: float = 0.0
    tokens: int = 0


def digests(messages: Messages, context: Any) -> list[bytes]:
    """A digest for each message, of the conversation up to and with it. `context` is what else its prompt depends on:
    the tools, and the template's variables.
    """
    digest = hashlib.blake2b(json.dumps(context, sort_keys=True, default=repr).encode(), digest_size=16)
    found = []
    for message in messages:
        digest.update(identity(message).encode())
        digest.update(b"\0")
        found.append(digest.digest())
    return found


class Sessions:
    """Session records. Those that nobody has used for `ttl` are dropped; a live one never is.

    Where the records together hold `most_tokens`, no further session begins: a caller that is refused tries again,
    while one whose record vanished would have lost its episode.
    """

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

    @property
    def full(self) -> bool:
        """Whether no further session may begin."""
        self._expire()
        return self._tokens >= self._most_tokens

    def admit(self, name: str) -> None:
        """Raise ProblemError `sessions-full` (429) for a session that is new where no more can be held."""
        if name not in self._sessions and self.full:
            detail = f"sessions with {self._tokens} tokens are live; no more are begun until some end"
            raise ProblemError("sessions-full", detail, status=429)

    def open(self, name: str, settings: SessionSettings) -> None:
        """Begin a session; one of that name that nobody opened is replaced, its record with it.

        Asked again with the same settings, nothing changes: an answer may have been lost. Raises ProblemError
        `session-open` (409) for other settings: how an open session samples is not for whoever is in it to change.
        """
        session = self._sessions.get(name)
        if session is not None and session.settings is not None:
            if session.settings != settings:
                raise ProblemError("session-open", f"session {name} is open with other settings", status=409)
            return
        self.admit(name)
        self.delete(name)
        self._touch(name, self._sessions.setdefault(name, _Session(settings=settings)))

    def settings(self, name: str) -> SessionSettings | None:
        """The settings of an opened session."""
        session = self._sessions.get(name)
        return session.settings if session else None

    def record(
        self,
        name: str,
        prompt: Sequence[int],
        result: GenerateResult,
        messages: Messages | None = None,
        context: Any = None,
    ) -> None:
        """Add a call.

        `messages` is the conversation up to and with the policy's answer, where the call was made in messages, and
        `context` what else its prompt was rendered with.
        """
        session = self._sessions.setdefault(name, _Session())
        session.calls += 1
        if result.token_ids:
            place = session.tree.add(prompt, result)
            if messages:
                session.states[digests(messages, context)[-1]] = place
        size = session.tree.size
        self._tokens += size - session.tokens
        session.tokens = size
        session.messages = list(messages or ())
        self._touch(name, session)
        self._expire()

    def continued(self, name: str, messages: Messages, context: Any = None) -> tuple[list[int], Messages] | None:
        """Where `messages` go on from a conversation of the session: its exact tokens, and the messages that are new.

        The longest such conversation counts, whichever of the session's calls it was.
        """
        session = self._sessions.get(name)
        if session is None or not session.states:
            return None
        found = digests(messages[:-1], context)
        for known in range(len(found), 0, -1):
            place = session.states.get(found[known - 1])
            if place is not None:
                return session.tree.whole(*place).tolist(), messages[known:]
        return None

    def get(self, name: str) -> SessionRecord:
        """The record; raises ProblemError `unknown-session` (404)."""
        session = self._sessions.get(name)
        if session is None:
            raise ProblemError("unknown-session", f"no session {name}", status=404)
        self._touch(name, session)
        return SessionRecord(
            id=name,
            opened=session.settings is not None,
            segments=session.tree.segments(),
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

    def _expire(self) -> None:
        oldest = self._clock() - self._ttl
        while self._sessions:
            name, session = next(iter(self._sessions.items()))
            if session.touched >= oldest:
                return
            self.delete(name)
