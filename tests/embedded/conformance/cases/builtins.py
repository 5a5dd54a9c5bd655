"""Built-in kinds, and the subresources of all."""

from tests.embedded.conformance.case import JSON_PATCH, MERGE, STRATEGIC, Answer, Case, Step, case
from tests.embedded.conformance.cases.common import (
    CORE,
    EVENTS,
    GADGETS,
    LEASES,
    MAPS,
    PODS,
    SECRETS,
    SERVICES,
    config_map,
    gadget,
    pod,
)
from tests.embedded.conformance.exchange import causes, codes
from tests.embedded.conformance.gadgets import DEFINITION, DEFINITIONS

AREA = "built-in kinds"
SUB = "subresources"
SCALE = {"version": "metadata.resourceVersion"}
LEASE = {"metadata": {"name": "l"}, "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15}}
TIME = "2026-01-01T00:00:00.000000Z"
FULL = pod(
    "full",
    containers=[
        {
            "name": "a",
            "image": "one:v1",
            "ports": [{"containerPort": 80}],
            "env": [
                {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "E", "value": ""},
            ],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
            "readinessProbe": {"httpGet": {"port": 80}},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        }
    ],
    initContainers=[{"name": "i", "image": "two", "restartPolicy": "Always"}],
    volumes=[{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "m"}}, {"name": "n"}],
)


def served(answer: Answer) -> object:
    """What an API group serves; in which order means nothing."""
    return sorted(answer.body["resources"], key=lambda each: str(each["name"]))


CASES: list[Case] = [
    case(
        AREA,
        "pods: defaults and checks",
        Step("POST", PODS, pod("p")),
        Step("POST", PODS, FULL),
        Step("POST", PODS, pod("empty", containers=[]), view=causes),
        Step("POST", PODS, pod("gated", schedulingGates=[{"name": "example.com/wait"}])),
        Step("PATCH", f"{PODS}/gated", {"spec": {"schedulingGates": []}}, MERGE),
        Step("DELETE", f"{PODS}/gated"),
        Step(
            "POST",
            PODS,
            pod("twice", containers=[{"name": "a", "image": "x"}, {"name": "a", "image": "x"}]),
            view=causes,
        ),
        Step("POST", PODS, pod("noimage", containers=[{"name": "a"}]), view=causes),
        Step("POST", PODS, pod("unknown", restartPolicy="Sometimes"), view=causes),
    ),
    case(
        AREA,
        "services: addresses, defaults and checks",
        Step("POST", SERVICES, {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}),
        Step("POST", SERVICES, {"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "selector": {"a": "b"}}}),
        Step("POST", SERVICES, {"metadata": {"name": "x"}, "spec": {}}, view=causes),
        Step("POST", SERVICES, {"metadata": {"name": "y"}, "spec": {"ports": [{"port": 1}, {"port": 2}]}}, view=causes),
        Step("POST", SERVICES, {"metadata": {"name": "z"}, "spec": {"ports": [{"port": 70000}]}}, view=causes),
    ),
    case(
        AREA,
        "secrets: stringData, immutable, type",
        Step("POST", SECRETS, {"metadata": {"name": "s"}, "stringData": {"k": "v"}, "data": {"l": "dw=="}}),
        Step("PATCH", f"{SECRETS}/s", {"stringData": {"k": "w"}}, MERGE),
        Step("PATCH", f"{SECRETS}/s", {"type": "other"}, MERGE),
        Step("PATCH", f"{SECRETS}/s", {"immutable": True}, MERGE),
        Step("PATCH", f"{SECRETS}/s", {"data": {"l": None}}, MERGE),
        Step("POST", SECRETS, {"metadata": {"name": "bad"}, "data": {"k": "not base64!"}}, view=codes),
        Step("POST", SECRETS, {"metadata": {"name": "key"}, "stringData": {"bad key": "v"}}, view=causes),
    ),
    case(
        AREA,
        "config maps: immutable, keys",
        Step("POST", MAPS, {**config_map("m", {"k": "v"}), "immutable": True}),
        Step("PATCH", f"{MAPS}/m", {"data": {"k": "w"}}, MERGE),
        Step("PATCH", f"{MAPS}/m", {"immutable": False}, MERGE),
        Step("PATCH", f"{MAPS}/m", {"metadata": {"labels": {"a": "b"}}}, MERGE),
        Step("POST", MAPS, config_map("n", {"bad key": "v"}), view=causes),
        Step("POST", MAPS, {**config_map("o", {"k": "v"}), "binaryData": {"k": "dw=="}}, view=causes),
        Step("POST", MAPS, config_map("t", {"k": 5}), view=codes),  # type: ignore[dict-item]
    ),
    case(
        AREA,
        "leases",
        Step("POST", LEASES, LEASE, save=SCALE),
        Step("PATCH", f"{LEASES}/l", {"spec": {"renewTime": TIME, "holderIdentity": "you"}}, MERGE),
        Step("PUT", f"{LEASES}/l", {**LEASE, "metadata": {"name": "l", "resourceVersion": "{version}"}}),
        Step("POST", LEASES, {"metadata": {"name": "n"}, "spec": {"leaseDurationSeconds": -1}}, view=causes),
        Step(
            "POST",
            LEASES,
            {"metadata": {"name": "n"}, "spec": {"renewTime": "yesterday"}},
            view=codes,
            differs="built-in kinds have no schema here: fields of a wrong type are stored, not refused",
        ),
    ),
    case(
        AREA,
        "events",
        Step(
            "POST",
            EVENTS,
            {
                "metadata": {"name": "e"},
                "involvedObject": {"kind": "Pod", "namespace": "{namespace}", "name": "p"},
                "reason": "R",
                "message": "m",
                "type": "Normal",
                "count": 1,
                "source": {"component": "c"},
            },
        ),
        Step("PATCH", f"{EVENTS}/e", {"count": 2}, STRATEGIC),
        Step("GET", f"{EVENTS}?fieldSelector=involvedObject.name%3Dp,reason%3DR"),
        Step("GET", f"{EVENTS}?fieldSelector=reason%3DS"),
        Step("POST", EVENTS, {"metadata": {"name": "f"}, "involvedObject": {"namespace": "elsewhere"}}),
    ),
    case(
        AREA,
        "namespaces",
        Step("POST", "/api/v1/namespaces", {"metadata": {"name": "{namespace}-n", "labels": {"a": "b"}}}),
        Step("POST", "/api/v1/namespaces", {"metadata": {"name": "{namespace}-n"}}),
        Step("PATCH", "/api/v1/namespaces/{namespace}-n", {"metadata": {"labels": {"a": "c"}}}, MERGE),
        Step("GET", "/api/v1/namespaces/none"),
    ),
    case(
        AREA,
        "custom resource definitions",
        Step("POST", DEFINITIONS, {**DEFINITION, "metadata": {"name": "wrong.conformance.shoal.dev"}}, view=causes),
        Step("POST", DEFINITIONS, {"metadata": {"name": "a.b"}, "spec": {}}, view=codes),
        Step(
            "GET",
            f"{DEFINITIONS}/gadgets.conformance.shoal.dev",
            view=lambda answer: answer.body["status"]["conditions"],
        ),
        Step(
            "GET",
            f"{DEFINITIONS}/gadgets.conformance.shoal.dev",
            view=lambda answer: answer.body["status"]["acceptedNames"],
        ),
    ),
    case(
        SUB,
        "status",
        Step("POST", GADGETS, {**gadget(), "status": {"phase": "ignored"}}),
        Step("PATCH", f"{GADGETS}/g", {"status": {"phase": "ignored"}}, MERGE),
        Step("PATCH", f"{GADGETS}/g/status", {"spec": {"size": 9}, "status": {"phase": "Up", "replicas": 2}}, MERGE),
        Step("PATCH", f"{GADGETS}/g/status", [{"op": "add", "path": "/status/selector", "value": "a=b"}], JSON_PATCH),
        Step("PATCH", f"{GADGETS}/g/status", {"status": {"unknown": 1}}, MERGE),
        Step("PATCH", f"{GADGETS}/g/status", {"status": {"replicas": "two"}}, MERGE, view=codes),
        Step("GET", f"{GADGETS}/g/status"),
        Step("PUT", f"{GADGETS}/g/status", gadget()),
        Step("DELETE", f"{GADGETS}/g/status"),
        Step("POST", f"{GADGETS}/g/status", gadget()),
        Step("PATCH", f"{GADGETS}/none/status", {"status": {}}, MERGE),
    ),
    case(
        SUB,
        "scale",
        Step("POST", GADGETS, gadget()),
        Step("PATCH", f"{GADGETS}/g/status", {"status": {"replicas": 2, "selector": "a=b"}}, MERGE),
        Step("GET", f"{GADGETS}/g/scale", save=SCALE),
        Step("PATCH", f"{GADGETS}/g/scale", {"spec": {"replicas": 6}}, MERGE),
        Step("PATCH", f"{GADGETS}/g/scale", [{"op": "replace", "path": "/spec/replicas", "value": 7}], JSON_PATCH),
        Step("PATCH", f"{GADGETS}/g/scale", {"spec": {"replicas": 8}}, STRATEGIC),
        Step("PATCH", f"{GADGETS}/g/scale", {"spec": {"replicas": 11}}, MERGE),
        Step("PATCH", f"{GADGETS}/g/scale", {"spec": {"replicas": -1}}, MERGE, view=codes),
        Step(
            "PUT",
            f"{GADGETS}/g/scale",
            {
                "apiVersion": "autoscaling/v1",
                "kind": "Scale",
                "metadata": {"name": "g", "namespace": "{namespace}"},
                "spec": {"replicas": 5},
            },
        ),
        Step(
            "PUT",
            f"{GADGETS}/g/scale",
            {
                "apiVersion": "autoscaling/v1",
                "kind": "Scale",
                "metadata": {"name": "g", "namespace": "{namespace}", "resourceVersion": "{version}"},
                "spec": {"replicas": 4},
            },
        ),
        Step("GET", f"{GADGETS}/g"),
        Step("GET", f"{GADGETS}/none/scale"),
    ),
    case(
        SUB,
        "pods: status, binding",
        Step("POST", PODS, pod("p")),
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
        Step("POST", f"{PODS}/p/binding", {"target": {"kind": "Node", "name": "n"}, "metadata": {"name": "p"}}),
        Step("POST", f"{PODS}/p/binding", {"target": {"kind": "Node", "name": "m"}, "metadata": {"name": "p"}}),
        Step("GET", f"{PODS}/p"),
    ),
    case(
        SUB,
        "pods: log, exec",
        Step("POST", PODS, pod("p")),
        Step(
            "GET",
            f"{PODS}/p/log?container=a",
            view=codes,
            differs="the log of a pod on no node is refused with the reason; kube-apiserver answers with nothing",
        ),
        Step("POST", f"{PODS}/p/exec?command=ls", differs="there is no exec: the paths of it are not found"),
        Step("GET", f"{PODS}/p/log?container=none", view=codes),
        Step("GET", f"{PODS}/none/log"),
        Step("GET", f"{PODS}/p/nonsense"),
    ),
    case(
        SUB,
        "none of that name",
        Step("POST", GADGETS, gadget()),
        Step("GET", f"{GADGETS}/g/nonsense"),
        Step("GET", f"{CORE}/nonsense"),
        Step("GET", "/apis/nonsense/v1/things"),
        Step("GET", "/apis/conformance.shoal.dev/v9/namespaces/{namespace}/gadgets"),
        Step(
            "POST",
            f"{GADGETS}/g",
            gadget(),
            differs="a POST to an object is not allowed (405); kube-apiserver takes it for a creation (409)",
        ),
        Step("PUT", GADGETS, gadget()),
        Step("PATCH", GADGETS, {}, MERGE),
        Step("DELETE", "/api/v1/namespaces"),
    ),
    case(
        "discovery",
        "groups, resources, versions",
        Step("GET", "/apis/conformance.shoal.dev"),
        Step("GET", "/apis/conformance.shoal.dev/v1", view=served),
        Step("GET", "/apis/rl.shoal.dev/v1alpha1", view=served),
        Step("GET", "/api", view=lambda answer: answer.body["versions"]),
        Step("GET", "/apis/nonsense"),
        Step("GET", "/apis/nonsense/v1"),
        Step("GET", "/readyz", view=lambda answer: answer.body),
    ),
    case(
        "discovery",
        "OpenAPI v3 of custom resources",
        *(
            Step(
                "GET",
                "/openapi/v3/apis/rl.shoal.dev/v1alpha1",
                view=lambda answer, kind=kind: answer.body["components"]["schemas"][f"dev.shoal.rl.v1alpha1.{kind}"][
                    "properties"
                ]["spec"],  # type: ignore[misc]
            )
            for kind in ("EnvironmentPool", "RolloutFleet", "RLJob")
        ),
        Step("GET", "/openapi/v3/apis/nonsense/v1", view=lambda answer: None),
    ),
]
