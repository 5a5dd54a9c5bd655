"""The few bodies that kubectl sends as protobuf whatever the server says: `create namespace|secret|configmap|…`.

Layout: the magic, then a `runtime.Unknown` (apimachinery's runtime/generated.proto) around the object, whose fields are
numbered in Kubernetes' own generated.proto files. Only what those commands set is read.
"""

from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

from shoal_embedded.apiserver.errors import bad_request, unsupported_media_type

Json = dict[str, Any]
Reader = Callable[[bytes], Any]
Fields = dict[int, tuple[str, Reader]]

TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _wire(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Length-delimited fields (number, content); numbers are skipped over."""
    position = 0
    while position < len(raw):
        tag, position = _varint(raw, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, position = _varint(raw, position)
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length, position = _varint(raw, position)
            if position + length > len(raw):
                raise bad_request("the protobuf body is cut off")
            yield number, raw[position : position + length]
            position += length
        else:
            raise bad_request(f"the protobuf body has a field of unknown wire type {kind}")


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(raw) or shift > 63:
            raise bad_request("the protobuf body is cut off")
        byte = raw[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if not byte & 0x80:
            return value, position


def _text(raw: bytes) -> str:
    return raw.decode()


def _base64(raw: bytes) -> str:
    return b64encode(raw).decode()


def _message(fields: Fields, *, maps: Fields | None = None, lists: Fields | None = None) -> Reader:
    """A reader of a message; entries of `maps` are read by the reader of their values, empty texts are left out."""

    def read(raw: bytes) -> Json:
        found: Json = {}
        for number, content in _wire(raw):
            if number in fields:
                name, reader = fields[number]
                value = reader(content)
                if value != "":
                    found[name] = value
            elif maps and number in maps:
                name, reader = maps[number]
                entry = dict(_wire(content))
                found.setdefault(name, {})[_text(entry.get(1, b""))] = reader(entry.get(2, b""))
            elif lists and number in lists:
                name, reader = lists[number]
                found.setdefault(name, []).append(reader(content))
        return found

    return read


_METADATA = _message(
    {1: ("name", _text), 2: ("generateName", _text), 3: ("namespace", _text), 6: ("resourceVersion", _text)},
    maps={11: ("labels", _text), 12: ("annotations", _text)},
    lists={14: ("finalizers", _text)},
)
_WHAT = ("namespace", "verb", "group", "version", "resource", "subresource", "name")
_ATTRIBUTES = _message({number: (name, _text) for number, name in enumerate(_WHAT, 1)})
_NO_RESOURCE = _message({1: ("path", _text), 2: ("verb", _text)})
_REVIEW = _message({1: ("resourceAttributes", _ATTRIBUTES), 2: ("nonResourceAttributes", _NO_RESOURCE)})
_KINDS = {
    "Namespace": _message({1: ("metadata", _METADATA)}),
    "ServiceAccount": _message({1: ("metadata", _METADATA)}),
    "Secret": _message(
        {1: ("metadata", _METADATA), 3: ("type", _text)}, maps={2: ("data", _base64), 4: ("stringData", _text)}
    ),
    "ConfigMap": _message({1: ("metadata", _METADATA)}, maps={2: ("data", _text), 3: ("binaryData", _base64)}),
    "SelfSubjectAccessReview": _message({1: ("metadata", _METADATA), 2: ("spec", _REVIEW)}),
}
_TYPE_META = _message({1: ("apiVersion", _text), 2: ("kind", _text)})


def decode(raw: bytes) -> Json:
    """The object in a protobuf body; raises 415 for a kind that is not read here, 400 for something broken."""
    if not raw.startswith(_MAGIC):
        raise bad_request("the protobuf body does not begin as Kubernetes' bodies do")
    envelope = dict(_wire(raw[len(_MAGIC) :]))
    head: Json = _TYPE_META(envelope.get(1, b""))
    reader = _KINDS.get(head.get("kind", ""))
    if reader is None:
        raise unsupported_media_type(f"{TYPE} of a {head.get('kind')}; send JSON")
    try:
        return {**head, **reader(envelope.get(2, b""))}
    except UnicodeDecodeError as error:
        raise bad_request(f"the protobuf body holds text that is none: {error}") from error
