"""Built-in kinds on both API servers: strategic merge, pods, services, pages, definitions."""

import urllib.parse
from typing import Any

from tests.embedded.apiserver.conftest import Embedded
from tests.embedded.conformance.exchange import APPLY, MERGE, STRATEGIC, Answer, Side, Step, sides
from tests.embedded.conformance.gadgets import DEFINITION, DEFINITIONS
from tests.kubernetes import Kubernetes

Json = dict[str, Any]

CORE = "/api/v1/namespaces/{namespace}"
PODS = f"{CORE}/pods"


def pod(name: str, **spec: Any) -> Json:
    containers = [
        {"name": "a", "image": "one", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
        {"name": "b", "image": "two"},
    ]
    # Nobody's scheduler: the pod stays where it is on both servers.
    body = {"schedulerName": "nobody", "containers": containers, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": body}


def image(name: str, value: str) -> Json:
    return {"spec": {"containers": [{"name": name, "image": value}]}}


PATCHES = [
    Step("POST", PODS, pod("p")),
    Step("PATCH", f"{PODS}/p", image("b", "three"), STRATEGIC),
    Step("PATCH", f"{PODS}/p", {"metadata": {"labels": {"app": None, "new": "1"}}}, STRATEGIC),
    Step("PATCH", f"{PODS}/p", {"spec": {"restartPolicy": "Never"}}, STRATEGIC),
    Step("PATCH", f"{PODS}/p", {"spec": {"activeDeadlineSeconds": 60}}, MERGE),
    Step("PATCH", f"{PODS}/p?fieldManager=x&force=true", {**pod("p"), **image("b", "four")}, APPLY),
    Step(
        "PATCH",
        f"{PODS}/p/status",
        {"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]}},
        STRATEGIC,
    ),
    Step(
        "PATCH",
        f"{PODS}/p/status",
        {"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Other", "$patch": "delete"}]}},
        STRATEGIC,
    ),
    Step("PATCH", f"{PODS}/p/status", {"status": {"phase": "Running", "podIP": "127.1.2.3"}}, MERGE),
    Step("GET", f"{PODS}?fieldSelector=status.phase%3DRunning"),
    Step("GET", f"{PODS}?fieldSelector=status.phase%21%3DRunning"),
    Step("GET", f"{PODS}?fieldSelector=spec.nonsense%3D1"),
    Step("GET", f"{PODS}?labelSelector=new+in+(1,2),!app"),
    Step("POST", f"{PODS}/p/binding", {"target": {"kind": "Node", "name": "n"}, "metadata": {"name": "p"}}),
    Step("POST", f"{PODS}/p/binding", {"target": {"kind": "Node", "name": "m"}, "metadata": {"name": "p"}}),
    Step("GET", f"{PODS}?fieldSelector=spec.nodeName%3Dn"),
    Step("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 20}),
    Step("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 10}),
    Step("GET", f"{PODS}/p"),
    Step("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 0}),
    Step("GET", f"{PODS}/p"),
    Step("POST", PODS, pod("gated", schedulingGates=[{"name": "example.com/wait"}])),
    Step("PATCH", f"{PODS}/gated", {"spec": {"schedulingGates": []}}, MERGE),
    Step("DELETE", f"{PODS}/gated"),
    Step("POST", PODS, pod("empty", containers=[])),
    Step("POST", f"{CORE}/events", {"metadata": {"name": "e"}, "involvedObject": {"namespace": "elsewhere"}}),
    Step("PUT", f"{PODS}/none", pod("none")),
    Step("PATCH", f"{CORE}/secrets/none", {"data": {}}, STRATEGIC),
    Step("POST", "/api/v1/namespaces/nowhere/pods", pod("lost")),
    Step("POST", "/api/v1/namespaces", {"metadata": {"name": "Upper"}}),
    Step("GET", "/api/v1/nodes/none"),
    Step("DELETE", "/api/v1/nodes/none"),
]


def seen(answer: Answer, namespace: str) -> Any:
    """What must agree: of pods, what the steps change; of refusals, all but the wording of causes."""
    code, body = answer
    if code >= 400:
        causes = [(each.get("reason"), each.get("field")) for each in (body.get("details") or {}).get("causes", [])]
        message = body.get("message", "").replace(namespace, "NAMESPACE") if not causes else ""
        return code, body.get("reason"), message, causes
    if "items" in body:
        return code, body["kind"], [_pod(item) for item in body["items"]]
    return code, body.get("kind"), _pod(body)


def _pod(body: Json) -> Any:
    spec, status, metadata = body.get("spec") or {}, body.get("status"), body.get("metadata", {})
    containers = [(each["name"], each["image"], each.get("env")) for each in spec.get("containers", ())]
    kept = [metadata.get(key) for key in ("name", "labels", "deletionGracePeriodSeconds")]
    kept += [spec.get(key) or None for key in ("activeDeadlineSeconds", "restartPolicy", "schedulingGates", "nodeName")]
    if isinstance(status, dict) and "phase" in status:
        kept += [status["phase"], status.get("podIP")]
        kept += [sorted((each["type"], each["status"]) for each in status.get("conditions", ()))]
    return containers, kept, "deletionTimestamp" in metadata


def compare(ours: Side, real: Side, steps: list[Step]) -> str:
    found = []
    for step in steps:
        wanted, given = seen(real.send(step), real.namespace), seen(ours.send(step), ours.namespace)
        if wanted != given:
            found.append(f"{step.method} {step.path} {step.body}\n    real: {wanted}\n    ours: {given}")
    return "\n".join(found)


def test_pods_live_alike(embedded: Embedded, kubernetes: Kubernetes) -> None:
    assert not (found := compare(*sides(embedded, kubernetes), PATCHES)), found


def test_pages_hold_the_same(embedded: Embedded, kubernetes: Kubernetes) -> None:
    for side in sides(embedded, kubernetes):
        for index in range(5):
            side.send(Step("POST", f"{CORE}/configmaps", {"metadata": {"name": f"m{index}", "labels": {"t": "x"}}}))
        names, left, token = [], [], ""
        while True:
            query = f"labelSelector=t%3Dx&limit=2&continue={urllib.parse.quote(token)}"
            code, page = side.send(Step("GET", f"{CORE}/configmaps?{query}"))
            assert code == 200, page
            names.append([item["metadata"]["name"] for item in page["items"]])
            left.append(bool(page["metadata"].get("continue")))
            token = page["metadata"].get("continue", "")
            if not token:
                break
        assert (names, left) == ([["m0", "m1"], ["m2", "m3"], ["m4"]], [True, True, False])


def test_a_service_keeps_its_address(embedded: Embedded, kubernetes: Kubernetes) -> None:
    for side in sides(embedded, kubernetes):
        body = {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
        code, made = side.send(Step("POST", f"{CORE}/services", body))
        assert (code, made["spec"]["ports"][0]["targetPort"]) == (201, 80)
        code, patched = side.send(
            Step("PATCH", f"{CORE}/services/s", {"spec": {"ports": [{"port": 81, "name": "b"}]}}, STRATEGIC)
        )
        assert code == 422, patched  # two ports need two names
        code, other = side.send(Step("PATCH", f"{CORE}/services/s", {"spec": {"clusterIP": "1.2.3.4"}}, MERGE))
        assert code == 422, other
        code, kept = side.send(Step("PATCH", f"{CORE}/services/s", {"spec": {"selector": {"a": "b"}}}, MERGE))
        assert (code, kept["spec"]["clusterIP"]) == (200, made["spec"]["clusterIP"])


def test_a_definition_is_established(embedded: Embedded, kubernetes: Kubernetes) -> None:
    for side in sides(embedded, kubernetes):
        assert side.send(Step("POST", DEFINITIONS, DEFINITION))[0] in (201, 409)
        misnamed = {**DEFINITION, "metadata": {"name": "wrong.conformance.shoal.dev"}}
        code, answer = side.send(Step("POST", DEFINITIONS, misnamed))
        assert (code, answer["details"]["causes"][0]["field"]) == (422, "metadata.name")
        code, stored = side.send(Step("GET", f"{DEFINITIONS}/gadgets.conformance.shoal.dev"))
        assert code == 200
        assert stored["spec"]["names"]["kind"] == "Gadget"
