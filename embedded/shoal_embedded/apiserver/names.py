"""Names that objects may have, and what kube-apiserver says of others."""

import re
from typing import Any

from shoal_embedded.apiserver.resources import Resource
from shoal_embedded.apiserver.schema import cause

Json = dict[str, Any]

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_SERVICE = "[a-z]([-a-z0-9]*[a-z0-9])?"

_WORDS = {
    _SUBDOMAIN: (
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
        "and end with an alphanumeric character (e.g. 'example.com'",
        253,
    ),
    _LABEL: (
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
        "with an alphanumeric character (e.g. 'my-name',  or '123-abc'",
        63,
    ),
    _SERVICE: (
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
        "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123'",
        63,
    ),
}
_BY_KEY = {"namespaces": _LABEL, "services": _SERVICE}


def validate(resource: Resource, metadata: dict[str, Any]) -> list[Json]:
    """Causes for which an object of this resource cannot have this name, or this start of a generated one."""
    found = _misnamed(resource, metadata["name"], "metadata.name")
    prefix = metadata.get("generateName")
    # What is generated ends with a letter or digit.
    return [*(_misnamed(resource, prefix.rstrip("-") + "a", "metadata.generateName") if prefix else []), *found]


def _misnamed(resource: Resource, name: str, field: str) -> list[Json]:
    if resource.group == "rbac.authorization.k8s.io" and not {"/", "%"} & set(name):
        # Roles may have any name that fits into a path, such as `system:node`.
        return []
    pattern = _BY_KEY.get(resource.key, _SUBDOMAIN)
    words, longest = _WORDS[pattern]
    shown = f'Invalid value: "{name}": '
    found = []
    if len(name) > longest:
        found.append(shown + f"must be no more than {longest} characters")
    if resource.key == "namespaces" and "." in name:
        found.append(f"{shown}must not contain dots")
    elif not re.fullmatch(pattern, name):
        found.append(shown + f"{words}, regex used for validation is '{pattern}')")
    return [cause("FieldValueInvalid", field, text) for text in found]
