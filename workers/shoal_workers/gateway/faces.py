"""What the protocols of other makers have in common: answers, streams of events, errors as their clients read them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, model_validator
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shoal_workers.service import read
from shoal_workers.service.abandon import CLIENT_CLOSED_REQUEST, Abandon, AbandonedError
from shoal_workers.service.problems import MEDIA_TYPE, PREFIX

B = TypeVar("B", bound="Body")

_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class Body(BaseModel):
    """A call's body. Fields that are null are absent, and those it does not know are kept, to be refused by name."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: each for name, each in value.items() if each is not None}


async def answered(request: Request, model: type[B], work: Callable[[B], Awaitable[Response]]) -> Response:
    """The work's answer. A caller that hangs up ends the work: what nobody got must not be in the session's record."""
    body = await read(request, model)
    try:
        with Abandon(request):
            return await work(body)
    except AbandonedError:
        return Response(status_code=CLIENT_CLOSED_REQUEST)


def answer(content: Mapping[str, Any]) -> Response:
    """JSON."""
    return Response(orjson.dumps(content), media_type="application/json")


def events(items: Iterable[tuple[str, Mapping[str, Any] | str]]) -> Response:
    """Server-sent events: name ("" for none) and data."""

    async def stream() -> AsyncIterator[bytes]:
        for name, data in items:
            text = data.encode() if isinstance(data, str) else orjson.dumps(data)
            yield (b"event: " + name.encode() + b"\n" if name else b"") + b"data: " + text + b"\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


class ForeignErrors:
    """Makes every problem under `/v1`, with and without a session, an error that the protocol's own clients read.

    Outermost, so that refusals before any route (no token, no such route) are among them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or not _is_foreign(scope["path"]):
            await self._app(scope, receive, send)
            return
        held: list[Message] = []
        body = bytearray()

        async def pass_on(message: Message) -> None:
            if message["type"] == "http.response.start" and _is_problem(message):
                held.append(message)
            elif held and message["type"] == "http.response.body":
                body.extend(message.get("body", b""))
                if not message.get("more_body"):
                    start = held.pop()
                    content = _foreign(bytes(body), scope["path"], start["status"])
                    headers = [(k, v) for k, v in start["headers"] if k.lower() != b"content-length"]
                    headers.append((b"content-length", str(len(content)).encode()))
                    await send({**start, "headers": headers})
                    await send({"type": "http.response.body", "body": content})
            else:
                await send(message)

        await self._app(scope, receive, pass_on)


def _is_foreign(path: str) -> bool:
    return path.startswith("/v1/") or (path.startswith("/sessions/") and "/v1/" in path)


def _is_problem(message: Message) -> bool:
    return any(k.lower() == b"content-type" and v.startswith(MEDIA_TYPE.encode()) for k, v in message["headers"])


def _foreign(body: bytes, path: str, status: int) -> bytes:
    """The problem document with the protocol's error in it. (Anthropic's own has a `type` that only it may have.)"""
    problem = orjson.loads(body)
    name = str(problem.get("type", "")).removeprefix(PREFIX)
    if "/v1/messages" in path:
        kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
        error = {"type": kind, "message": problem.get("detail", "")}
        return orjson.dumps({**problem, "type": "error", "problem": problem.get("type"), "error": error})
    kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    fields = problem.get("errors") or ()
    param = fields[0].get("field") if fields else None
    error = {"message": problem.get("detail", ""), "type": kind, "code": name, "param": param}
    return orjson.dumps({**problem, "error": error})
