"""One model call through the fleet: a place, an engine, and another engine when the first fails."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field
from time import perf_counter

import aiohttp
from pydantic import ValidationError

from shoal.api.services.models import FinishReason, GenerateRequest, GenerateResult
from shoal_workers.gateway.admission import Admission
from shoal_workers.gateway.engines import Engines
from shoal_workers.gateway.pieces import Pieces, encode_request
from shoal_workers.service import ProblemError, Token, authorized
from shoal_workers.service.credentials import as_credential
from shoal_workers.service.problems import problem_from_body

# More failures than this in a row are no accident of one engine: the caller is told.
ATTEMPTS = 20
# A request that engines die of must not take the whole fleet with it.
LOSSES = 4
# Between attempts that brought nothing, so that a fleet of one broken engine is not hammered.
PAUSE_SECONDS = 0.05
LATENCIES = 2048

# What an engine says when it, not the request, is at fault.
_LOST = frozenset({"engine-dead", "engine-lost"})
_TRY_ELSEWHERE = _LOST | {"engine-not-ready", "internal-error", "stale-weights"}


@dataclass(slots=True)
class Figures:
    """What the gateway has done since it started; latencies in seconds, of the last calls."""

    requests: int = 0
    retries: int = 0
    errors: int = 0
    served_while_updating: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))


class Calls:
    """Makes model calls. `timeout` is the longest one engine may take for one call, in seconds."""

    def __init__(self, engines: Engines, admission: Admission, token: Token, timeout: float = 3600.0) -> None:
        self._engines = engines
        self._admission = admission
        self._credential = as_credential(token)
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=5.0)
        self.figures = Figures()
        self.session: aiohttp.ClientSession | None = None

    async def generate(self, request: GenerateRequest) -> GenerateResult:
        """The whole generation, however many engines it takes; raises ProblemError."""
        outcome = await self.run(request, encode_request(request))
        return outcome if isinstance(outcome, GenerateResult) else GenerateResult.model_validate_json(outcome)

    async def run(self, request: GenerateRequest, body: bytes) -> GenerateResult | bytes:
        """As `generate`, but an answer that one engine gave in one piece is passed on as the bytes it came in.

        `body` is the request as JSON.
        """
        self._engines.check_run(request.run)
        self.figures.requests += 1
        begin = perf_counter()
        try:
            outcome = await self._attempts(request, body)
        except ProblemError:
            self.figures.errors += 1
            raise
        self.figures.latencies.append(perf_counter() - begin)
        return outcome

    async def _attempts(self, request: GenerateRequest, body: bytes) -> GenerateResult | bytes:
        pieces = Pieces(request)
        avoid: set[str] = set()
        failures: list[ProblemError] = []
        for attempt in range(ATTEMPTS):
            if attempt:
                self.figures.retries += 1
                rest = pieces.remaining()
                if rest is None:
                    return pieces.result()
                request, body = rest, encode_request(rest)
            name, answer = await self._attempt(request, body, avoid)
            avoid = {name}
            if isinstance(answer, ProblemError):
                failures.append(answer)
                if sum(failure.name in _LOST for failure in failures) == LOSSES:
                    break
                await asyncio.sleep(random.uniform(0.5, 1.0) * PAUSE_SECONDS * len(failures))
            # Looked for in the bytes: parsing every answer would double the cost of a call.
            elif not pieces.parts and b'"finish_reason":"abort"' not in answer:
                return answer
            else:
                pieces.add(_read(answer, name))
                if pieces.parts[-1].finish_reason is not FinishReason.ABORT:
                    return pieces.result()
        if failures:
            raise failures[-1]
        return pieces.result()

    async def _attempt(
        self, request: GenerateRequest, body: bytes, avoid: set[str]
    ) -> tuple[str, bytes | ProblemError]:
        """One engine's answer, or why another should be asked; raises ProblemError where none would answer better."""
        tokens, least = request.prompt_token_ids, request.min_version or 0
        name = await self._admission.acquire(request.session, tokens, least, avoid)
        try:
            answer = await authorized(self._credential, lambda headers: self._ask(name, body, headers))
        except ProblemError as error:
            if error.status == 401:
                # The engine refuses this gateway, not the caller: its token is not the newest yet.
                error = ProblemError("engine-not-ready", f"{name}: {error.detail}", status=503)
            if error.name not in _TRY_ELSEWHERE and error.status != 503:
                raise error
            if error.name != "stale-weights":
                self._engines.suspect(name)
            return name, error
        finally:
            self._admission.release(name)
        # Another run may have got the fleet meanwhile, and its weights have sampled the rest.
        self._engines.check_run(request.run)
        if self._engines.others_update(name):
            self.figures.served_while_updating += 1
        return name, answer

    async def _ask(self, name: str, body: bytes, headers: dict[str, str]) -> bytes:
        known = self._engines.known.get(name)
        if known is None or self.session is None:
            raise ProblemError("engine-not-ready", f"{name} has gone", status=503)
        with known.watched():
            try:
                async with self.session.post(
                    known.generate_url, data=body, headers=headers, timeout=self._timeout
                ) as response:
                    answer = await response.read()
                    if response.status >= 400:
                        raise problem_from_body(answer, response.status)
                    return answer
            except aiohttp.ClientConnectorError as error:
                raise ProblemError("engine-not-ready", f"{name}: {error}", status=503) from None
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise ProblemError("engine-lost", f"{name}: {type(error).__name__}: {error}", status=503) from None


def _read(answer: bytes, name: str) -> GenerateResult:
    try:
        return GenerateResult.model_validate_json(answer)
    except ValidationError as error:
        raise ProblemError("bad-answer", f"{name}: {error}", status=502) from None
