"""Label and field selectors."""

import re
from collections.abc import Callable
from typing import Any

from shoal.embedded.apiserver.errors import bad_request

Json = dict[str, Any]
Predicate = Callable[[Json], bool]

_TERM = re.compile(
    r"\s*(?P<not>!)?\s*(?P<key>[A-Za-z0-9._/-]+)\s*(?:(?P<op>==|=|!=|\bin\b|\bnotin\b)\s*(?P<value>\([^)]*\)|[^,()]*))?\s*(?:,|$)"
)


def label_predicate(selector: str) -> Predicate:
    """Whether an object's labels fit a selector such as `a=b,c!=d,e in (f,g),!h`; raises 400 for other text."""
    checks: list[Callable[[dict[str, str]], bool]] = []
    position = 0
    while position < len(selector):
        match = _TERM.match(selector, position)
        if match is None or match.end() == position:
            raise bad_request(f"unable to parse requirement: {selector!r}")
        checks.append(_label_check(match["key"], match["op"], (match["value"] or "").strip(), bool(match["not"])))
        position = match.end()
    return lambda body: all(check(body["metadata"].get("labels") or {}) for check in checks)


def _label_check(key: str, operator: str | None, value: str, absent: bool) -> Callable[[dict[str, str]], bool]:
    if operator is None:
        return lambda labels: (key in labels) != absent
    if operator in ("=", "=="):
        return lambda labels: labels.get(key) == value
    if operator == "!=":
        return lambda labels: labels.get(key) != value
    values = {each.strip() for each in value.strip("()").split(",")}
    if operator == "in":
        return lambda labels: labels.get(key) in values
    return lambda labels: labels.get(key) not in values


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


def field_predicate(selector: str, resource: str) -> Predicate:
    """Whether an object's fields fit a selector such as `metadata.name=a,status.phase!=Running`; raises 400 for a
    field that objects of the resource (its storage key) cannot be selected by.
    """
    known = {"metadata.name", "metadata.namespace", *_FIELDS.get(resource, ())}
    terms = [_split(term) for term in selector.split(",") if term]
    for path, _, _ in terms:
        if path not in known:
            raise bad_request(f"field label not supported: {path}")
    checks = [_field_check(*term) for term in terms]
    return lambda body: all(check(body) for check in checks)


def _field_check(path: str, operator: str, value: str) -> Predicate:
    parts = path.split(".")
    return lambda body: (_at(body, parts) == value) == (operator == "=")


def _split(term: str) -> tuple[str, str, str]:
    for operator in ("!=", "==", "="):
        path, found, value = term.partition(operator)
        if found:
            return path.strip(), "!=" if operator == "!=" else "=", value.strip()
    raise bad_request(f"invalid selector: {term!r}; can't understand it")


def _at(body: Any, parts: list[str]) -> str:
    for part in parts:
        body = body.get(part) if isinstance(body, dict) else None
    return "" if body is None else str(body)


def both(*predicates: Predicate) -> Predicate:
    """All of them."""
    return lambda body: all(predicate(body) for predicate in predicates)
