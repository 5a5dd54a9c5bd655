"""What a request asks for beside its body: who writes, whether in earnest, how strictly fields are taken."""

from dataclasses import dataclass

from aiohttp import web

from shoal_embedded.apiserver import bodies
from shoal_embedded.apiserver.errors import invalid
from shoal_embedded.apiserver.schema import cause

_KINDS = {"POST": "CreateOptions", "PUT": "UpdateOptions", "PATCH": "PatchOptions", "DELETE": "DeleteOptions"}
_VALIDATIONS = ("", "Ignore", "Strict", "Warn")
_LONGEST_MANAGER = 128


@dataclass(frozen=True)
class Options:
    """Options of a write.

    Args:
        manager: who owns the fields that are written.
        strict: whether unknown fields are refused; else they are dropped.
        dry: whether nothing is stored.
        force: whether an applier takes the fields of others.
    """

    manager: str = ""
    strict: bool = False
    dry: bool = False
    force: bool = False


NOBODY = Options()
"""Of a write by the server itself, which owns nothing."""


def of(request: web.Request) -> Options:
    """The options in a request's query; raises 422 for values that are none."""
    query, kind = request.query, _KINDS[request.method]
    validation, dry = query.get("fieldValidation", ""), query.getall("dryRun", [])
    if dry not in ([], ["All"]):
        shown = "[" + ",".join(f'"{each}"' for each in dry) + "]"
        raise _refused(kind, "dryRun", f'Unsupported value: {shown}: supported values: "All"')
    if validation not in _VALIDATIONS:
        known = ", ".join(f'"{each}"' for each in _VALIDATIONS)
        raise _refused(kind, "fieldValidation", f'Unsupported value: "{validation}": supported values: {known}')
    manager = query.get("fieldManager", "")
    if len(manager) > _LONGEST_MANAGER:
        words = f"Too long: may not be more than {_LONGEST_MANAGER} bytes"
        raise invalid(kind, "meta.k8s.io", "", [cause("FieldValueTooLong", "fieldManager", words)])
    applied = request.method == "PATCH" and request.content_type in bodies.APPLY
    if not manager and applied:
        needed = cause("FieldValueRequired", "fieldManager", "Required value: is required for apply patch")
        raise invalid(kind, "meta.k8s.io", "", [needed])
    if "force" in query and not applied and request.method == "PATCH":
        words = "Forbidden: may not be specified for non-apply patch"
        raise invalid(kind, "meta.k8s.io", "", [cause("FieldValueForbidden", "force", words)])
    agent = request.headers.get("User-Agent", "").partition("/")[0]
    return Options(manager or agent or "unknown", validation == "Strict", bool(dry), bodies.flag(request, "force"))


def _refused(kind: str, field: str, words: str) -> Exception:
    return invalid(kind, "meta.k8s.io", "", [cause("FieldValueNotSupported", field, words)])
