"""Bearer tokens that are renewed while processes run.

A renewed Secret holds the new token and, for a while, the one before. Nodes refresh their pods' files at different
times, so a service takes both, and a caller that is refused shows the other one.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import TypeVar

from shoal.api.labels import OWN_TOKEN, PREVIOUS_TOKEN_KEY, TOKEN_KEY, TOKENS_VARIABLE
from shoal_workers.service.config import ConfigurationError
from shoal_workers.service.problems import ProblemError

AnswerT = TypeVar("AnswerT")

FRESH_SECONDS = 1.0
"""Between looks at the files: calls come by the thousand a second, renewals once in weeks."""


class Credential:
    """Tokens for one service, newest first. This one never changes; `MountedCredential` does."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = tokens
        self._headers = _headers(tokens)

    @property
    def tokens(self) -> tuple[str, ...]:
        """What to show, in this order, and what to take."""
        return self._tokens

    def refresh(self) -> bool:
        """Look now whether there are others; returns whether there are."""
        return False

    def matches(self, header: bytes) -> bool:
        """Whether an Authorization header shows one of the tokens."""
        return any(hmac.compare_digest(header, known) for known in self._headers)


class MountedCredential(Credential):
    """Tokens in the files of a Secret's volume, which the node keeps up to date.

    Raises ConfigurationError when there is no token to begin with; later the last ones that were read hold.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = monotonic) -> None:
        try:
            super().__init__(*_read(folder))
        except OSError as error:
            raise ConfigurationError(str(folder), f"no token: {error}") from None
        if not self._tokens:
            raise ConfigurationError(str(folder), "the token is empty")
        self._folder = folder
        self._clock = clock
        self._looked = clock()

    @property
    def tokens(self) -> tuple[str, ...]:
        """As of at most a second ago."""
        if self._clock() - self._looked >= FRESH_SECONDS:
            self.refresh()
        return self._tokens

    def matches(self, header: bytes) -> bool:
        """Whether an Authorization header shows one of the tokens."""
        _ = self.tokens
        return super().matches(header)

    def refresh(self) -> bool:
        """Read the files now."""
        self._looked = self._clock()
        try:
            tokens = _read(self._folder)
        except OSError:
            return False
        if not tokens or tokens == self._tokens:
            return False
        self._tokens, self._headers = tokens, _headers(tokens)
        return True


Token = str | Credential | None
"""What services and clients are given: a token that never changes, a credential, or none."""


def credential(name: str = OWN_TOKEN, environment: Mapping[str, str] = os.environ) -> Credential | None:
    """This role's own credential, or with `name` (such as `gateway` or `pool-frozen-lake`) that for another service.

    In a pod they are files. A process that is started by hand may have the token itself in SHOAL_TOKEN, or in
    SHOAL_TOKEN_GATEWAY and the like. None, where there is neither, means that nothing is asked for or shown.
    """
    folder = environment.get(TOKENS_VARIABLE)
    if folder:
        return MountedCredential(Path(folder) / name)
    variable = "SHOAL_TOKEN" if name == OWN_TOKEN else "SHOAL_TOKEN_" + name.upper().replace("-", "_")
    return as_credential(environment.get(variable))


def as_credential(token: Token) -> Credential | None:
    """A fixed token as a credential; none for an empty one."""
    if isinstance(token, Credential):
        return token
    return Credential(token) if token else None


async def authorized(known: Credential | None, call: Callable[[dict[str, str]], Awaitable[AnswerT]]) -> AnswerT:
    """The answer to `call(headers)`, with the next token when one is refused (401: nothing was done yet)."""
    if known is None:
        return await call({})
    for token in known.tokens:
        try:
            return await call(_shown(token))
        except ProblemError as error:
            if error.status != 401:
                raise
            refusal = error
    if known.refresh():
        return await call(_shown(known.tokens[0]))
    raise refusal


def _shown(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _headers(tokens: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(f"Bearer {token}".encode() for token in tokens)


def _read(folder: Path) -> tuple[str, ...]:
    previous = folder / PREVIOUS_TOKEN_KEY
    found = ((folder / TOKEN_KEY).read_text().strip(), previous.read_text().strip() if previous.exists() else "")
    return tuple(dict.fromkeys(token for token in found if token))
