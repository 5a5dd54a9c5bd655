"""The same requests to the embedded API server and to a real one, and what of the two answers must agree."""

import http.client
import json
import re
import ssl
import time
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tests.embedded.apiserver.conftest import Embedded
from tests.embedded.conformance.case import JSON, WATCH, Answer, Case, Step
from tests.kubernetes import Kubernetes

Json = dict[str, Any]

PATIENCE = 30.0
"""Seconds for what a server does by and by; a garbage collector on a loaded machine takes some."""
_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
_ADDRESS = re.compile(r"\b(127|10)\.96\.\d+\.\d+\b")
_VERSION = re.compile(r"((?:version|in record|precondition|current)\w*:? \(?)\d+( \(\d+\))?")
_AGE = re.compile(r"\d+[smh](\d+[sm])?")
_OWN = ("uid", "resourceVersion", "creationTimestamp", "namespace", "selfLink")
"""Metadata that every server makes up for itself."""


@dataclass
class Side:
    """One server and a namespace there, with what the steps of a case saved."""

    url: str
    token: str
    namespace: str
    certificate: str = ""
    saved: dict[str, str] = field(default_factory=dict)
    _connection: http.client.HTTPConnection | None = None

    def send(self, step: Step) -> Answer:
        """The answer, asked for again as long as the step says."""
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self._watch(step) if step.method == WATCH else self._once(step)
            wanted = (not step.until or answer.code == step.until) and (step.when is None or step.when(answer))
            if wanted or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        for name, path in step.save.items():
            self.saved[name] = str(at(answer.body, path))
        return answer

    def _once(self, step: Step) -> Answer:
        for again in (True, False):
            connection = self._connection or self._connect()
            self._connection = connection
            try:
                connection.request(step.method, self._filled(step.path), self._bytes(step), self._headers(step))
                response = connection.getresponse()
                return Answer(response.status, _decoded(response.read()), response.headers.get_content_type())
            except (http.client.HTTPException, ConnectionError):
                # A server may close a connection that was idle.
                self._connection = None
                if not again:
                    raise
        raise AssertionError("not reached")

    def _watch(self, step: Step) -> Answer:
        connection = self._connect()
        try:
            connection.request("GET", self._filled(step.path), headers=self._headers(step))
            response = connection.getresponse()
            if response.status != 200:
                return Answer(response.status, _decoded(response.read()))
            events: list[Any] = []
            while (not step.events or len(events) < step.events) and (line := response.readline()):
                events.append(json.loads(line))
            return Answer(200, events)
        finally:
            connection.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> http.client.HTTPConnection:
        host = urllib.parse.urlsplit(self.url).netloc
        if not self.certificate:
            return http.client.HTTPConnection(host, timeout=PATIENCE)
        return http.client.HTTPSConnection(host, timeout=PATIENCE, context=_tls(self.certificate))

    def _headers(self, step: Step) -> dict[str, str]:
        asked = {"Authorization": f"Bearer {self.token}", "Accept": step.accept, "User-Agent": "conformance/1"}
        return asked if step.method in ("GET", WATCH) else {**asked, "Content-Type": step.type}

    def _bytes(self, step: Step) -> bytes | None:
        if step.raw is not None:
            return step.raw
        return None if step.body is None else self._filled(json.dumps(step.body), plain=True).encode()

    def _filled(self, text: str, *, plain: bool = False) -> str:
        text = text.replace("{namespace}", self.namespace)
        for name, value in self.saved.items():
            text = text.replace(f"{{{name}}}", value if plain else urllib.parse.quote(value))
        return text


@lru_cache
def _tls(certificate: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    return context


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {"message": raw.decode(errors="replace")}


def at(body: Any, path: str) -> Any:
    """What lies at a dotted path; numbers are indexes of lists."""
    for part in path.split("."):
        body = body[int(part)] if isinstance(body, list) else (body or {}).get(part)
    return body


def sides(embedded: Embedded, kubernetes: Kubernetes) -> tuple[Side, Side]:
    """The embedded server and the real one, each with a new namespace."""
    ours = Side(embedded.url, "secret", embedded.namespace())
    real = Side(kubernetes.url, kubernetes.token, kubernetes.namespace, str(kubernetes.certificate))
    return ours, real


def essence(step: Step, answer: Answer, side: Side) -> Any:
    """What two servers must agree on: not what each makes up for itself."""
    view: Callable[[Answer], Any] = step.view or whole
    value = view(answer)
    text = json.dumps([answer.code, value], sort_keys=True).replace(side.namespace, "NAMESPACE")
    for pattern, word in ((_UID, "UID"), (_TIME, "TIME"), (_ADDRESS, "ADDRESS"), (_VERSION, r"\1VERSION")):
        text = pattern.sub(word, text)
    return json.loads(text)


def codes(answer: Answer) -> Any:
    """Of an answer, its reason alone (the code always counts)."""
    return answer.body.get("reason") if isinstance(answer.body, dict) and answer.code >= 400 else None


def causes(answer: Answer) -> Any:
    """Of a refusal all but its words."""
    if answer.code < 400:
        return whole(answer)
    found = (answer.body.get("details") or {}).get("causes", [])
    return answer.body.get("reason"), sorted((each.get("reason"), each.get("field")) for each in found)


def whole(answer: Answer) -> Any:
    """Everything that two servers can agree on."""
    if answer.code >= 400:
        return refusal(answer.body)
    if isinstance(answer.body, list):
        return [(event["type"], _kept(event["object"])) for event in answer.body]
    return _kept(answer.body)


def refusal(body: Any) -> Any:
    """A Status that says no: reason, message, details."""
    details = dict(body.get("details") or {})
    found = [(each.get("reason"), each.get("field"), each.get("message")) for each in details.pop("causes", [])]
    # kube-apiserver walks Go maps here, so its order means nothing.
    message = body.get("message", "") if len(found) < 2 else "".join(sorted(body["message"]))
    return body.get("reason"), message, sorted(found, key=str), details


def _kept(body: Any) -> Any:
    if not isinstance(body, dict):
        return body
    if body.get("kind") == "Table":
        columns = body["columnDefinitions"] or ()
        heads = [(each["name"], each["type"], each["format"], each["priority"]) for each in columns]
        return heads, [(_cells(each["cells"]), _kept(each.get("object"))) for each in body["rows"]]
    if body.get("kind") == "Status" and body.get("status") == "Failure":
        return refusal(body)
    if "items" in body:
        return body["kind"], body["apiVersion"], _list(body["metadata"]), [_kept(item) for item in body["items"]]
    if not isinstance(body.get("metadata"), dict):
        return body
    metadata = {key: value for key, value in body["metadata"].items() if key not in _OWN}
    if "managedFields" in metadata:
        # Two writes of one manager in one second have one time, so the order is by name here.
        owners = [{key: value for key, value in each.items() if key != "time"} for each in metadata["managedFields"]]
        metadata["managedFields"] = sorted(owners, key=lambda each: json.dumps(each, sort_keys=True))
    prefix = metadata.get("generateName")
    if prefix and str(metadata.get("name", "")).startswith(prefix):
        metadata["name"] = f"{prefix}SUFFIX"
    spec = body.get("spec")
    if isinstance(spec, dict) and "containers" in spec:
        # Written by the admission plug-in ServiceAccount, which the real server of the tests runs without.
        body = {**body, "spec": {key: value for key, value in spec.items() if not key.startswith("serviceAccount")}}
    return {**body, "metadata": metadata}


def _cells(cells: list[Any]) -> list[Any]:
    """A row's cells; ages are as long as the test took."""
    return ["AGE" if isinstance(each, str) and _AGE.fullmatch(each) else each for each in cells]


def _list(metadata: Json) -> Any:
    return bool(metadata.get("resourceVersion")), bool(metadata.get("continue")), metadata.get("remainingItemCount")


@dataclass(frozen=True)
class Compared:
    """One step's answers."""

    step: Step
    ours: Any
    real: Any

    def complaint(self) -> str:
        """What is wrong with it: an unknown difference, or a known one that is no more; else empty."""
        if (self.ours == self.real) != bool(self.step.differs):
            return ""
        asked = f"{self.step.method} {self.step.path} {self.step.body if self.step.raw is None else '(raw)'}"
        if self.step.differs:
            return f"{asked}\n    no longer differs: {self.step.differs}\n    {self.real}"
        return f"{asked}\n    real: {json.dumps(self.real)}\n    ours: {json.dumps(self.ours)}"


def compared(case: Case, ours: Side, real: Side) -> list[Compared]:
    """The steps on both sides, at the same time."""

    def answers(side: Side) -> list[Any]:
        try:
            return [essence(step, side.send(step), side) for step in case.steps]
        finally:
            side.close()

    with ThreadPoolExecutor(2) as pool:
        given, wanted = pool.map(answers, (ours, real))
    return [Compared(*each) for each in zip(case.steps, given, wanted, strict=True)]


__all__ = ["JSON", "Compared", "Side", "causes", "codes", "compared", "essence", "sides", "whole"]
