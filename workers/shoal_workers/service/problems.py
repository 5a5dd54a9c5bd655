"""Errors that cross a service boundary, as RFC 9457 problem documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

from shoal.api.services.common import Problem

PREFIX = "urn:shoal:problem:"
MEDIA_TYPE = "application/problem+json"


class ProblemError(Exception):
    """A failure with a machine-readable name; raised by a handler on one side and by `ServiceClient` on the other.

    `name` is the kebab-case tail of the problem's `type`, `status` the HTTP status, `extensions` further JSON fields.
    """

    def __init__(
        self, name: str, detail: str, *, status: int = 400, extensions: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name
        self.detail = detail
        self.status = status
        self.extensions = dict(extensions or {})

    @property
    def type(self) -> str:
        """The problem's `type` URN."""
        return PREFIX + self.name

    def document(self) -> dict[str, Any]:
        """The problem document."""
        title = self.name.replace("-", " ").capitalize()
        return {**self.extensions, "type": self.type, "title": title, "status": self.status, "detail": self.detail}


def problem_response(error: ProblemError) -> Response:
    """The HTTP answer that carries the problem."""
    return Response(orjson.dumps(error.document(), default=str), status_code=error.status, media_type=MEDIA_TYPE)


def problem_from_body(body: bytes, status: int) -> ProblemError:
    """The problem in an error answer; an answer that is no problem document becomes `http-<status>`."""
    try:
        problem = Problem.model_validate_json(body)
    except ValueError:
        text = body[:500].decode("utf-8", "replace").strip()
        return ProblemError(f"http-{status}", text or "no detail", status=status)
    name = problem.type.removeprefix(PREFIX) if problem.type.startswith(PREFIX) else f"http-{status}"
    detail = problem.detail or problem.title or body[:500].decode("utf-8", "replace")
    return ProblemError(name, detail, status=status, extensions=problem.model_extra)
