"""The same requests to the embedded API server and to a real one: status, reason, message and causes must agree."""

import json
import re
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import pytest

from tests.embedded.apiserver.conftest import Embedded
from tests.kubernetes import Kubernetes

CONFIG_MAP = {"metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"k": "v"}}
HELD = {"metadata": {"name": "held", "finalizers": ["example.com/hold"]}}
MERGE, JSON_PATCH = "application/merge-patch+json", "application/json-patch+json"
STRATEGIC, APPLY = "application/strategic-merge-patch+json", "application/apply-patch+yaml"
MAPS = "configmaps"
ALICE, BOB = "?fieldManager=alice", "?fieldManager=bob"


def applied(data: dict[str, str] | None = None) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}, "data": data or {}}


@dataclass(frozen=True)
class Step:
    """One request below /api/v1/namespaces/NAMESPACE/."""

    method: str
    path: str
    body: Any = None
    type: str = "application/json"


STEPS = [
    Step("POST", MAPS, CONFIG_MAP),
    Step("POST", MAPS, CONFIG_MAP),
    Step("POST", MAPS, {"data": {}}),
    Step("POST", MAPS, {**CONFIG_MAP, "metadata": {"name": "b", "namespace": "elsewhere"}}),
    Step("GET", f"{MAPS}/none"),
    Step("GET", f"{MAPS}?labelSelector=x%3Dy"),
    Step("GET", f"{MAPS}?labelSelector=x+in+(z)"),
    Step("GET", f"{MAPS}?fieldSelector=metadata.name%3Da"),
    Step("GET", "nonsense"),
    Step("PATCH", f"{MAPS}/a", {"data": {"k": None, "l": "w"}}, MERGE),
    Step("PATCH", f"{MAPS}/a", {"metadata": {"resourceVersion": "1"}, "data": {"l": "z"}}, MERGE),
    Step("PATCH", f"{MAPS}/a", [{"op": "add", "path": "/data/m", "value": "1"}], JSON_PATCH),
    Step("PATCH", f"{MAPS}/a", [{"op": "test", "path": "/data/m", "value": "2"}], JSON_PATCH),
    Step("PATCH", f"{MAPS}/a", {"metadata": {"finalizers": ["example.com/hold"]}}, STRATEGIC),
    Step("PATCH", f"{MAPS}/a", {"metadata": {"finalizers": None}}, MERGE),
    Step("PATCH", f"{MAPS}/none", {"data": {}}, MERGE),
    Step("DELETE", f"{MAPS}/a", {"preconditions": {"uid": "other"}}),
    Step("DELETE", f"{MAPS}/a"),
    Step("DELETE", f"{MAPS}/a"),
    Step("POST", MAPS, HELD),
    Step("DELETE", f"{MAPS}/held"),
    Step("GET", f"{MAPS}/held"),
    Step("PATCH", f"{MAPS}/held", {"metadata": {"finalizers": []}}, MERGE),
    Step("GET", f"{MAPS}/held"),
    Step("PATCH", f"{MAPS}/s", applied({"k": "v"}), APPLY),
    Step("PATCH", f"{MAPS}/s{ALICE}", applied({"k": "v", "l": "w"}), APPLY),
    Step("PATCH", f"{MAPS}/s{BOB}", applied({"k": "other"}), APPLY),
    Step("PATCH", f"{MAPS}/s{BOB}&force=true", applied({"k": "other"}), APPLY),
    Step("PATCH", f"{MAPS}/s{ALICE}", applied({"l": "w"}), APPLY),
    Step("PATCH", f"{MAPS}/s{BOB}", applied(), APPLY),
    Step("PATCH", f"{MAPS}/s{ALICE}", applied({"m": "n"}), APPLY),
    Step("POST", "services", {"metadata": {"name": "x"}, "spec": {"clusterIP": "None", "selector": {"a": "b"}}}),
    Step("POST", "services", {"metadata": {"name": "y"}, "spec": {}}),
    Step("POST", "secrets", {"metadata": {"name": "x"}, "stringData": {"k": "v"}}),
    Step("DELETE", f"{MAPS}?labelSelector=none%3Dnone"),
    Step("POST", MAPS, {"metadata": {"name": "Upper"}}),
    Step("POST", "services", {"metadata": {"name": "0x"}, "spec": {"ports": [{"port": 1}]}}),
    Step("DELETE", "services/x"),
    Step("DELETE", f"{MAPS}/s", {"preconditions": {"resourceVersion": "1"}}),
    Step("PUT", f"{MAPS}/s", {"metadata": {"name": "other"}}),
    Step("PUT", f"{MAPS}/none", {"metadata": {"name": "none"}}),
    Step("PUT", f"{MAPS}/s", {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"}}),
]


def real_call(kubernetes: Kubernetes, step: Step) -> tuple[int, Any]:
    context = ssl.create_default_context(cafile=str(kubernetes.certificate))
    context.check_hostname = False
    request = urllib.request.Request(
        f"{kubernetes.url}/api/v1/namespaces/{kubernetes.namespace}/{step.path}",
        method=step.method,
        data=None if step.body is None else json.dumps(step.body).encode(),
        headers={"Authorization": f"Bearer {kubernetes.token}", "Content-Type": step.type},
    )
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def essence(answer: tuple[int, Any], namespace: str) -> Any:
    """What must agree: not names of namespaces, versions and UIDs."""
    code, body = answer
    if code >= 400:
        causes = [(each.get("reason"), each["field"]) for each in (body.get("details") or {}).get("causes", [])]
        text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "UID", body["message"].replace(namespace, "NAMESPACE"))
        text = re.sub(r"in record \(\d+\)", "in record (VERSION)", text)
        return code, body.get("reason"), text, causes
    items = body.get("items", [body])
    return code, body.get("kind"), [kept(item) for item in items]


def kept(item: dict[str, Any]) -> Any:
    metadata = item.get("metadata", {})
    shown = {key: metadata.get(key) for key in ("name", "labels", "finalizers")}
    return shown, item.get("data"), "deletionTimestamp" in metadata


def test_answers_agree(embedded: Embedded, kubernetes: Kubernetes) -> None:
    namespace = embedded.namespace()
    differences = []
    for step in STEPS:
        real = essence(real_call(kubernetes, step), kubernetes.namespace)
        path = f"/api/v1/namespaces/{namespace}/{step.path}"
        ours = essence(embedded.call(step.method, path, step.body, step.type), namespace)
        if ours != real:
            differences.append(f"{step}\n    real: {real}\n    ours: {ours}")
    if differences:
        pytest.fail("\n".join(differences))
