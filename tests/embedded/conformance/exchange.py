"""The same request to the embedded API server and to a real one, and what of the two answers must agree."""

import json
import re
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tests.embedded.apiserver.conftest import Embedded
from tests.kubernetes import Kubernetes

Json = dict[str, Any]
Answer = tuple[int, Any]

MERGE, JSON_PATCH = "application/merge-patch+json", "application/json-patch+json"
STRATEGIC, APPLY = "application/strategic-merge-patch+json", "application/apply-patch+yaml"

_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}")
_OWN = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "namespace", "selfLink")
"""Metadata that every server makes up for itself."""


@dataclass(frozen=True)
class Step:
    """One request. `{namespace}` in the path stands for the test's namespace; `table` asks as `kubectl get` does."""

    method: str
    path: str
    body: Any = None
    type: str = "application/json"
    table: bool = False

    @property
    def accept(self) -> str:
        """The Accept header."""
        return "application/json;as=Table;v=v1;g=meta.k8s.io" if self.table else "application/json"


@dataclass(frozen=True)
class Side:
    """One server and a namespace there."""

    url: str
    token: str
    namespace: str
    certificate: str = ""

    def send(self, step: Step) -> Answer:
        """Status code and decoded body."""
        request = urllib.request.Request(
            self.url + step.path.replace("{namespace}", self.namespace),
            method=step.method,
            data=None if step.body is None else json.dumps(step.body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": step.type, "Accept": step.accept},
        )
        context = _tls(self.certificate) if self.certificate else None
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _decoded(error.read())


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except json.JSONDecodeError:
        return {"message": raw.decode()}


@lru_cache
def _tls(certificate: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    return context


def sides(embedded: Embedded, kubernetes: Kubernetes) -> tuple[Side, Side]:
    """The embedded server and the real one, each with a new namespace."""
    ours = Side(embedded.url, "secret", embedded.namespace())
    real = Side(kubernetes.url, kubernetes.token, kubernetes.namespace, str(kubernetes.certificate))
    return ours, real


def essence(answer: Answer, namespace: str) -> Any:
    """What two servers must agree on: not what each makes up for itself."""
    code, body = answer
    if code >= 400:
        details = body.get("details") or {}
        causes = [(each.get("reason"), each.get("field"), each.get("message")) for each in details.get("causes", [])]
        # kube-apiserver walks Go maps here, so its order means nothing.
        message = body["message"] if len(causes) < 2 else "".join(sorted(body["message"]))
        return json.loads(_neutral([code, body.get("reason"), message, sorted(causes)], namespace))
    return json.loads(_neutral([code, _kept(body)], namespace))


def _neutral(value: Any, namespace: str) -> str:
    return _UID.sub("UID", json.dumps(value).replace(namespace, "NAMESPACE"))


def _kept(body: Any) -> Any:
    if body.get("kind") == "Table":
        heads = [(each["name"], each["type"], each["priority"]) for each in body["columnDefinitions"]]
        return heads, [each["cells"] for each in body["rows"]]
    if "items" in body:
        return body["kind"], [_kept(item) for item in body["items"]]
    if "metadata" not in body:
        return body
    metadata = {key: value for key, value in body["metadata"].items() if key not in _OWN}
    owned = {
        each["manager"]: each["fieldsV1"]
        for each in body["metadata"].get("managedFields", ())
        if each["operation"] == "Apply"
    }
    metadata.pop("deletionTimestamp", None)
    return {**body, "metadata": metadata}, owned, "deletionTimestamp" in body["metadata"]


def differences(ours: Side, real: Side, steps: list[Step]) -> list[str]:
    """The steps, in their order, in whose answers the servers differ."""
    found = []
    for step in steps:
        wanted, given = essence(real.send(step), real.namespace), essence(ours.send(step), ours.namespace)
        if wanted != given:
            found.append(f"{step.method} {step.path} {step.body}\n    real: {wanted}\n    ours: {given}")
    return found
