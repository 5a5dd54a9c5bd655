"""Errors as Kubernetes tells them: Status objects with a code, a reason and causes."""

from typing import Any

Json = dict[str, Any]


class StatusError(Exception):
    """A refusal. `reason` is Kubernetes' CamelCase word, `details` its StatusDetails."""

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or {}

    def status(self) -> Json:
        """The Status object."""
        full = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }
        return {key: value for key, value in full.items() if key != "reason" or value}


def not_found(resource: str, group: str, name: str) -> StatusError:
    """The object does not exist."""
    qualified = f"{resource}.{group}" if group else resource
    details = {"name": name, "group": group, "kind": resource}
    return StatusError(404, "NotFound", f'{qualified} "{name}" not found', _full(details))


def unknown_path() -> StatusError:
    """Nothing is served at this path."""
    return StatusError(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(resource: str, group: str, name: str) -> StatusError:
    """The name is taken."""
    qualified = f"{resource}.{group}" if group else resource
    details = {"name": name, "group": group, "kind": resource}
    return StatusError(409, "AlreadyExists", f'{qualified} "{name}" already exists', _full(details))


def conflict(resource: str, group: str, name: str, why: str) -> StatusError:
    """The object is not the one, or not in the version, that the request names."""
    qualified = f"{resource}.{group}" if group else resource
    details = {"name": name, "group": group, "kind": resource}
    message = f'Operation cannot be fulfilled on {qualified} "{name}": {why}'
    return StatusError(409, "Conflict", message, _full(details))


def terminating(resource: str, group: str, name: str, namespace: str) -> StatusError:
    """The namespace ends, and takes nothing new."""
    qualified = f"{resource}.{group}" if group else resource
    cause = {
        "reason": "NamespaceTerminating",
        "message": f"namespace {namespace} is being terminated",
        "field": "metadata.namespace",
    }
    details = {"name": name, "group": group, "kind": resource, "causes": [cause]}
    why = f"unable to create new content in namespace {namespace} because it is being terminated"
    return StatusError(403, "Forbidden", f'{qualified} "{name}" is forbidden: {why}', _full(details))


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def invalid(kind: str, group: str, name: str, causes: list[Json]) -> StatusError:
    """Fields that the object may not have; each cause has reason, message and field."""
    # The same words are said once, though their causes are all told.
    listed = list(dict.fromkeys(f"{cause['field']}: {cause['message']}" for cause in causes))
    text = listed[0] if len(listed) == 1 else f"[{', '.join(listed)}]"
    qualified = f"{kind}.{group}" if group else kind
    details = {"name": name, "group": group, "kind": kind, "causes": causes}
    return StatusError(422, "Invalid", f'{qualified} "{name}" is invalid: {text}', _full(details))


def bad_request(message: str) -> StatusError:
    """The request itself makes no sense."""
    return StatusError(400, "BadRequest", message)


def gone(message: str) -> StatusError:
    """The version asked for is too old."""
    return StatusError(410, "Expired", message)


def unsupported_media_type(*accepted: str) -> StatusError:
    """The body's type is not one that this request takes."""
    listed = f" - accepted media types include: {', '.join(accepted)}"
    return StatusError(415, "UnsupportedMediaType", f"the body of the request was in an unknown format{listed}")


def method_not_allowed() -> StatusError:
    """The resource does not do this."""
    return StatusError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def not_supported(action: str, resource: str, group: str) -> StatusError:
    """A custom resource does not do this."""
    words = f'{action} is not supported on resources of kind "{resource}.{group}"'
    return StatusError(405, "MethodNotAllowed", words, {"group": group, "kind": resource})


def not_acceptable() -> StatusError:
    """The client takes no form that the server has."""
    forms = "application/json, application/yaml, application/vnd.kubernetes.protobuf"
    return StatusError(406, "NotAcceptable", f"406: Not Acceptable\n\nAvailable representations: {forms}")


def _full(details: Json) -> Json:
    return {key: value for key, value in details.items() if value not in ("", None)}
