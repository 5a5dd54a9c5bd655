"""Label and field selectors."""

import re
from collections.abc import Callable
from typing import Any

from shoal_embedded.apiserver.errors import bad_request
from shoal_embedded.apiserver.metadata import label_value, qualified

Json = dict[str, Any]
Predicate = Callable[[Json], bool]
Labels = dict[str, str]

_WORD = re.compile(r"\s*(==|!=|[=!<>(),]|[^\s=!<>(),]+)")
_OPERATORS = ("in", "notin", "=", "==", "!=", "gt", "lt")
_SIGNS = frozenset({"=", "==", "!=", "!", "<", ">", "(", ")", ","})


def label_predicate(selector: str) -> Predicate:
    """Whether an object's labels fit a selector such as `a=b,c!=d,e in (f,g),!h`; raises 400 for other text."""
    checks = _Parser(selector).requirements()
    return lambda body: all(check(body["metadata"].get("labels") or {}) for check in checks)


class _Parser:
    """Reads a label selector word by word, and complains in kube-apiserver's words."""

    def __init__(self, text: str) -> None:
        self._words = _WORD.findall(text)
        self._at = 0

    def requirements(self) -> list[Callable[[Labels], bool]]:
        found = []
        while self._peek():
            if self._peek() not in ("!",) and self._peek() in _SIGNS:
                raise bad_request(f"found '{self._peek()}', expected: !, identifier, or 'end of string'")
            found.append(self._requirement())
            if self._peek() not in ("", ","):
                raise bad_request(f"found '{self._peek()}', expected: ',' or 'end of string'")
            if self._next() == "," and self._peek() in ("", ","):
                raise bad_request(f"found '{self._peek()}', expected: identifier after ','")
        return found

    def _peek(self) -> str:
        return self._words[self._at] if self._at < len(self._words) else ""

    def _next(self) -> str:
        word = self._peek()
        self._at += 1
        return word

    def _requirement(self) -> Callable[[Labels], bool]:
        absent = self._peek() == "!"
        if absent:
            self._next()
        key = self._next()
        for words in qualified(key):
            raise _unparsed(f'<nil>: Invalid value: "{key}": {words}')
        if absent or self._peek() in ("", ","):
            return lambda labels: (key in labels) != absent
        operator = self._next()
        if operator in ("in", "notin"):
            values = self._values()
            return lambda labels: (labels.get(key) in values) == (operator == "in")
        if operator in ("<", ">"):
            return self._bound(key, operator)
        if operator not in ("=", "==", "!="):
            raise _unparsed(f"found '{operator}', expected: {', '.join(_OPERATORS)}")
        value = "" if self._peek() in ("", ",") else self._value(self._next())
        return lambda labels: (labels.get(key) == value) == (operator != "!=")

    def _value(self, word: str) -> str:
        if word in _SIGNS:
            raise _unparsed(f"found '{word}', expected: identifier")
        for words in label_value(word):
            raise _unparsed(f'values[0][KEY]: Invalid value: "{word}": {words}')
        return word

    def _bound(self, key: str, operator: str) -> Callable[[Labels], bool]:
        word = self._next()
        if not re.fullmatch(r"[+-]?\d+", word):
            words = "for 'Gt', 'Lt' operators, the value must be an integer"
            raise _unparsed(f'values[0]: Invalid value: "{word}": {words}')
        limit, above = int(word), operator == ">"

        def fits(labels: Labels) -> bool:
            text = labels.get(key, "")
            return bool(re.fullmatch(r"[+-]?\d+", text)) and (int(text) > limit if above else int(text) < limit)

        return fits

    def _values(self) -> set[str]:
        word = self._next()
        if word != "(":
            raise _unparsed(f"found '{word}' expected: '('")
        values: set[str] = set()
        while True:
            if self._peek() not in (",", ")", ""):
                values.add(self._value(self._next()))
            elif self._peek() in (",", ")"):
                values.add("")
            word = self._next()
            if word == ")":
                return values
            if word != ",":
                raise _unparsed(f"found '{word}', expected: ',' or ')'")


def _unparsed(words: str) -> Exception:
    return bad_request(f"unable to parse requirement: {words}")


_FIELDS = {
    "pods": {
        *("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork"),
        *("status.phase", "status.podIP", "status.nominatedNodeName"),
    },
    "nodes": {"spec.unschedulable"},
    "namespaces": {"status.phase"},
    "secrets": {"type"},
    "services": {"spec.clusterIP", "spec.type"},
    "events": {
        *(f"involvedObject.{field}" for field in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion")),
        *("involvedObject.fieldPath", "reason", "reportingComponent", "source", "type"),
    },
}
"""Fields that kube-apiserver can select by, beside `metadata.name` and `metadata.namespace`."""


def field_predicate(selector: str, resource: str, *, custom: bool = False) -> Predicate:
    """Whether an object's fields fit a selector such as `metadata.name=a,status.phase!=Running`; raises 400 for a
    field that objects of the resource (its storage key) cannot be selected by.
    """
    known = {"metadata.name", "metadata.namespace", *_FIELDS.get(resource, ())}
    terms = [_split(selector, term) for term in selector.split(",") if term]
    for path, _, _ in terms:
        if path not in known and (custom or resource in _FIELDS):
            raise bad_request(f"field label not supported: {path}")
        if path not in known:
            raise bad_request(
                f'"{path}" is not a known field selector: only "metadata.name", "metadata.namespace"',
            )
    checks = [_field_check(*term) for term in terms]
    return lambda body: all(check(body) for check in checks)


def _field_check(path: str, operator: str, value: str) -> Predicate:
    parts = path.split(".")
    return lambda body: (_at(body, parts) == value) == (operator == "=")


def _split(selector: str, term: str) -> tuple[str, str, str]:
    for operator in ("!=", "==", "="):
        path, found, value = term.partition(operator)
        if found:
            return path.strip(), "!=" if operator == "!=" else "=", value.strip()
    raise bad_request(f"invalid selector: '{selector}'; can't understand '{term}'")


def _at(body: Any, parts: list[str]) -> str:
    for part in parts:
        body = body.get(part) if isinstance(body, dict) else None
    return "" if body is None else str(body)


def both(*predicates: Predicate) -> Predicate:
    """All of them."""
    return lambda body: all(predicate(body) for predicate in predicates)
