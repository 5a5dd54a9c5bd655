"""What every object's metadata may hold, and what kube-apiserver says of what it may not."""

import re
from typing import Any

from shoal_embedded.apiserver.errors import bad_request
from shoal_embedded.apiserver.schema import cause, validate

Json = dict[str, Any]

LONGEST_NAME = 63
LONGEST_PREFIX = 58
"""Of a generated name; what is longer is cut off, so that the whole fits into a label."""
_ANNOTATIONS = 256 * 1024
_TEXT: Json = {"type": "string"}
_OWNER: Json = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("apiVersion", "kind", "name", "uid"), _TEXT),
        "controller": {"type": "boolean"},
        "blockOwnerDeletion": {"type": "boolean"},
    },
    "x-kubernetes-map-type": "atomic",
}
_TEXTS = ("name", "generateName", "namespace", "selfLink", "uid", "resourceVersion", "creationTimestamp")
SCHEMA: Json = {
    "type": "object",
    "properties": {
        **dict.fromkeys((*_TEXTS, "deletionTimestamp"), _TEXT),
        "generation": {"type": "integer"},
        "deletionGracePeriodSeconds": {"type": "integer"},
        "labels": {"type": "object", "additionalProperties": _TEXT},
        "annotations": {"type": "object", "additionalProperties": _TEXT},
        "finalizers": {"type": "array", "items": _TEXT, "x-kubernetes-list-type": "set"},
        "ownerReferences": {
            "type": "array",
            "items": _OWNER,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["uid"],
        },
        "managedFields": {
            "type": "array",
            "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    },
}
"""ObjectMeta as a structural schema."""
_FINALIZERS = ("orphan", "foregroundDeletion", "kubernetes")
_NAME = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_NAME_WORDS = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    f"(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_NAME}')"
)
_VALUE = f"({_NAME})?"
_VALUE_WORDS = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    f"'{_VALUE}')"
)
_PREFIX = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_PREFIX_WORDS = (
    "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and "
    "must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    f"'{_PREFIX}')"
)


def check_types(metadata: Any) -> None:
    """Raise 400 where a part of the metadata is of another type, as kube-apiserver does when it reads a body."""
    found = validate({key: value for key, value in metadata.items() if value is not None}, SCHEMA, "metadata")
    wrong = [each for each in found if each["reason"] == "FieldValueTypeInvalid"]
    if wrong:
        raise bad_request(f"json: cannot unmarshal into ObjectMeta: {wrong[0]['message']}")


def refused(metadata: Json) -> list[Json]:
    """Causes for which these labels, annotations, finalizers and owners are refused."""
    found = []
    for key, value in (metadata.get("labels") or {}).items():
        found += [_invalid("metadata.labels", key, words) for words in qualified(key)]
        found += [_invalid("metadata.labels", value, words) for words in label_value(value)]
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        found += [_invalid("metadata.annotations", key, words) for words in qualified(key.lower())]
    if sum(len(key) + len(value or "") for key, value in annotations.items()) > _ANNOTATIONS:
        words = f"Too long: may not be more than {_ANNOTATIONS} bytes"
        found.append(cause("FieldValueTooLong", "metadata.annotations", words))
    found += _finalizers(metadata.get("finalizers") or [])
    return found + _owners(metadata.get("ownerReferences") or [])


def _invalid(field: str, value: str, words: str) -> Json:
    return cause("FieldValueInvalid", field, f'Invalid value: "{value}": {words}')


def qualified(key: str) -> list[str]:
    """What is wrong with a key such as `example.com/name`."""
    prefix, slash, name = key.rpartition("/")
    if "/" in prefix:
        return ["a qualified name " + _NAME_WORDS + _WITH_PREFIX]
    found = []
    if slash and not prefix:
        found.append("prefix part must be non-empty")
    elif prefix and len(prefix) > 253:
        found.append("prefix part must be no more than 253 characters")
    elif prefix and not re.fullmatch(_PREFIX, prefix):
        found.append(_PREFIX_WORDS)
    if not name:
        found.append("name part must be non-empty")
    elif len(name) > LONGEST_NAME:
        found.append(f"name part must be no more than {LONGEST_NAME} characters")
    if not re.fullmatch(_NAME, name):
        found.append(f"name part {_NAME_WORDS}")
    return found


_WITH_PREFIX = " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"


def label_value(value: str) -> list[str]:
    """What is wrong with a label's value."""
    found = []
    if len(value) > LONGEST_NAME:
        found.append(f"must be no more than {LONGEST_NAME} characters")
    if not re.fullmatch(_VALUE, value):
        found.append(_VALUE_WORDS)
    return found


def _finalizers(finalizers: list[str]) -> list[Json]:
    found = []
    for index, name in enumerate(finalizers):
        found += [_invalid("metadata.finalizers", name, words) for words in qualified(name)]
        if "/" not in name and name not in _FINALIZERS:
            words = "name is neither a standard finalizer name nor is it fully qualified"
            found.append(_invalid(f"metadata.finalizers[{index}]", name, words))
    return found


def _owners(owners: list[Json]) -> list[Json]:
    found = []
    for owner in owners:
        for key, words in (
            ("apiVersion", "version must not be empty"),
            *((key, "must not be empty") for key in ("kind", "name", "uid")),
        ):
            if not owner.get(key):
                found.append(_invalid(f"metadata.ownerReferences.{key}", "", words))
    controllers = [owner for owner in owners if owner.get("controller")]
    if len(controllers) > 1:
        first, second = controllers[:2]
        words = 'Only one reference can have Controller set to true. Found "true" in references for '
        words += f"{first['kind']}/{first['name']} and {second['kind']}/{second['name']}"
        found.append(cause("FieldValueInvalid", "metadata.ownerReferences", f"Invalid value: null: {words}"))
    return found


def changed(before: Json, after: Json, *, custom: bool) -> list[Json]:
    """Causes for which metadata may not change so: what the server alone sets, and new finalizers of what is ending.

    Of custom objects kube-apiserver checks this twice, and says it twice.
    """
    found = []
    for key in ("uid", "deletionTimestamp"):
        value = after.get(key)
        if custom and value and value != before.get(key):
            found += [_invalid(f"metadata.{key}", value, "field is immutable")] * 2
    old = before.get("finalizers") or []
    new = [each for each in after.get("finalizers") or () if each not in old]
    if before.get("deletionTimestamp") and new:
        shown = "[]string{" + ", ".join(f'"{each}"' for each in new) + "}"
        words = "no new finalizers can be added if the object is being deleted, found new finalizers"
        again = 2 if custom else 1
        found += [cause("FieldValueForbidden", "metadata.finalizers", f"Forbidden: {words} {shown}")] * again
    return found
