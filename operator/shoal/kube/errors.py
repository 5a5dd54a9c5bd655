"""Typed errors of the Kubernetes API, decoded from its `Status` objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldCause:
    """One reason of a refusal: `field` is the path in the object (`spec.slots`), `reason` a CamelCase word."""

    field: str
    reason: str
    message: str


class ApiError(Exception):
    """A request failed. `status` is the HTTP status (0: no answer), `reason` the server's CamelCase reason."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "", causes: tuple[FieldCause, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason
        self.causes = causes
        self.retry_after: float | None = None
        """Seconds the server asked to wait, when it did."""


class BadRequestError(ApiError):
    """400 or another 4xx without a class of its own: the request is wrong and will stay wrong."""


class UnauthorizedError(ApiError):
    """401: the credentials are not, or no longer, accepted."""


class ForbiddenError(ApiError):
    """403: the account lacks a permission, or an admission plug-in or quota refused."""


class NotFoundError(ApiError):
    """404: no such object, or no such resource."""


class ConflictError(ApiError):
    """409: the object changed since it was read, or a precondition (UID, resourceVersion) does not hold."""


class AlreadyExistsError(ConflictError):
    """409 on creation: the name is taken."""


class GoneError(ApiError):
    """410: the resourceVersion or continue token is too old; list again."""


class InvalidError(ApiError):
    """422: validation refused the object; `causes` names the fields."""


class TooManyRequestsError(ApiError):
    """429: wait `retry_after` seconds. For an eviction: a disruption budget forbids it now."""


class UnavailableError(ApiError):
    """5xx, a broken connection or a timeout: the server may or may not have done the request."""


_BY_STATUS: dict[int, type[ApiError]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: InvalidError,
    429: TooManyRequestsError,
}


def error_from_status(
    status: int, body: Mapping[str, Any] | None, *, what: str = "", retry_after: float | None = None
) -> ApiError:
    """Make the typed error for an HTTP status and the decoded `Status` object that came with it.

    `what` names the request (`GET /api/v1/pods`) and starts the message. A body without JSON is passed as None.
    """
    body = body or {}
    details = body.get("details") or {}
    reason = str(body.get("reason") or "")
    causes = tuple(
        FieldCause(str(cause.get("field", "")), str(cause.get("reason", "")), str(cause.get("message", "")))
        for cause in details.get("causes") or ()
    )
    text = str(body.get("message") or f"HTTP status {status}")
    kind = _BY_STATUS.get(status) or (UnavailableError if status >= 500 else BadRequestError)
    if reason == "AlreadyExists":
        kind = AlreadyExistsError
    elif reason == "Expired":
        kind = GoneError
    error = kind(f"{what}: {text}" if what else text, status=status, reason=reason, causes=causes)
    seconds = details.get("retryAfterSeconds")
    error.retry_after = retry_after if retry_after is not None else (float(seconds) if seconds else None)
    return error
