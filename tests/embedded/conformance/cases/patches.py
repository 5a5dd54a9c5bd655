"""Patches of every type, and those that cannot be done."""

from tests.embedded.conformance.case import APPLY, JSON, JSON_PATCH, MERGE, STRATEGIC, Case, Step, case
from tests.embedded.conformance.cases.common import (
    GADGETS,
    MAPS,
    PODS,
    SECRETS,
    SERVICES,
    config_map,
    gadget,
    image,
    pod,
)
from tests.embedded.conformance.exchange import causes, codes

AREA = "patches"
G, M = f"{GADGETS}/g", f"{MAPS}/m"


def operations(path: str, *each: dict) -> list[Step]:  # type: ignore[type-arg]
    """One JSON patch for each operation."""
    return [Step("PATCH", path, [one], JSON_PATCH) for one in each]


CASES: list[Case] = [
    case(
        AREA,
        "merge patch (RFC 7386)",
        Step("POST", GADGETS, gadget(items=[{"name": "a"}, {"name": "b"}], labels={"x": "1"})),
        Step("PATCH", G, {"spec": {"size": 4, "labels": {"x": None, "y": "2"}}}, MERGE),
        Step("PATCH", G, {"spec": {"items": [{"name": "c"}]}}, MERGE),
        Step("PATCH", G, {"spec": {"items": None}}, MERGE),
        Step("PATCH", G, {"spec": {"size": None}}, MERGE),
        Step("PATCH", G, {"spec": {"size": 99}}, MERGE),
        Step("PATCH", G, {}, MERGE),
        Step("PATCH", G, [], MERGE, view=codes),
        Step("PATCH", G, raw=b"{", type=MERGE, view=codes),
        Step("PATCH", f"{GADGETS}/none", {"spec": {}}, MERGE),
        Step("PATCH", G, {"metadata": {"resourceVersion": "1"}, "spec": {"size": 5}}, MERGE),
        Step("PATCH", G, {"kind": "Other"}, MERGE, view=codes),
        Step("POST", MAPS, config_map("m", {"k": "v"})),
        Step("PATCH", M, {"data": {"k": None, "l": "w"}}, MERGE),
        Step("PATCH", M, {"metadata": {"resourceVersion": "1"}, "data": {"l": "z"}}, MERGE),
        Step("PATCH", f"{MAPS}/none", {"data": {}}, MERGE),
    ),
    case(
        AREA,
        "JSON patch (RFC 6902)",
        Step("POST", GADGETS, gadget(plain=[1, 2, 3], labels={"x": "1"}, text=None)),
        *operations(
            G,
            {"op": "replace", "path": "/spec/size", "value": 5},
            {"op": "add", "path": "/spec/plain/-", "value": 4},
            {"op": "add", "path": "/spec/plain/0", "value": 0},
            {"op": "remove", "path": "/spec/plain/1"},
            {"op": "test", "path": "/spec/size", "value": 5},
            {"op": "move", "from": "/spec/labels/x", "path": "/spec/labels/y"},
            {"op": "copy", "from": "/spec/labels/y", "path": "/spec/labels/z~1w"},
            {"op": "remove", "path": "/spec/labels/z~1w"},
            {"op": "add", "path": "/metadata/labels", "value": {"a": "b"}},
        ),
        Step("PATCH", M, [{"op": "remove", "path": "/data"}], JSON_PATCH),
    ),
    case(
        AREA,
        "JSON patches that cannot be done",
        Step("POST", GADGETS, gadget(plain=[1])),
        *operations(
            G,
            {"op": "remove", "path": "/spec/none"},
            {"op": "replace", "path": "/spec/none", "value": 1},
            {"op": "add", "path": "/none/deep", "value": 1},
            {"op": "add", "path": "/spec/plain/9", "value": 1},
            {"op": "test", "path": "/spec/size", "value": 99},
            {"op": "move", "from": "/spec/none", "path": "/spec/size"},
        ),
        *(
            Step("PATCH", G, [each], JSON_PATCH, view=codes)
            for each in (
                {"op": "nonsense", "path": "/spec/size"},
                {"op": "add"},
                {"op": "add", "path": "spec", "value": 1},
            )
        ),
        Step("PATCH", G, {"spec": {"size": 4}}, JSON_PATCH, view=codes),
        Step("GET", G),
    ),
    case(
        AREA,
        "strategic merge of pods",
        Step("POST", PODS, pod("p")),
        Step("PATCH", f"{PODS}/p", image("b", "three"), STRATEGIC),
        Step("PATCH", f"{PODS}/p", {"metadata": {"labels": {"app": None, "new": "1"}}}, STRATEGIC),
        Step("PATCH", f"{PODS}/p", {"metadata": {"finalizers": ["example.com/a"]}}, STRATEGIC),
        Step("PATCH", f"{PODS}/p", {"metadata": {"finalizers": ["example.com/b"]}}, STRATEGIC),
        Step("PATCH", f"{PODS}/p", {"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/a"]}}, STRATEGIC),
        Step("PATCH", f"{PODS}/p", {"metadata": {"finalizers": [], "$patch": "merge"}}, STRATEGIC),
        Step("PATCH", f"{PODS}/p", {"metadata": {"labels": {"$patch": "replace", "only": "1"}}}, STRATEGIC),
        Step("PATCH", f"{PODS}/p", {"spec": {"restartPolicy": "Never"}}, STRATEGIC, view=causes),
        Step("PATCH", f"{PODS}/p", {"spec": {"containers": [{"name": "c", "image": "x"}]}}, STRATEGIC, view=codes),
        Step("PATCH", f"{PODS}/p", {"spec": {"activeDeadlineSeconds": 60}}, MERGE),
        Step("PATCH", f"{PODS}/none", {"spec": {}}, STRATEGIC),
    ),
    case(
        AREA,
        "strategic merge of services, secrets, config maps",
        Step("POST", SERVICES, {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}),
        Step("PATCH", f"{SERVICES}/s", {"spec": {"ports": [{"port": 80, "name": "x"}]}}, STRATEGIC),
        Step("PATCH", f"{SERVICES}/s", {"spec": {"ports": [{"port": 81, "name": "y"}]}}, STRATEGIC),
        Step("PATCH", f"{SERVICES}/s", {"spec": {"ports": [{"port": 80, "$patch": "delete"}]}}, STRATEGIC),
        Step("PATCH", f"{SERVICES}/s", {"spec": {"selector": {"a": None, "c": "d"}}}, STRATEGIC),
        Step("PATCH", f"{SERVICES}/s", {"spec": {"clusterIP": "1.2.3.4"}}, MERGE, view=causes),
        Step("PATCH", f"{SECRETS}/none", {"data": {}}, STRATEGIC),
        Step("POST", MAPS, config_map("m", {"k": "v"})),
        Step("PATCH", M, {"data": {"$patch": "replace", "l": "w"}}, STRATEGIC),
        Step("PATCH", M, {"data": {"$retainKeys": ["m"], "m": "1"}}, STRATEGIC),
        Step("PATCH", M, {"data": None}, STRATEGIC),
    ),
    case(
        AREA,
        "types that are not taken",
        Step("POST", GADGETS, gadget()),
        Step("POST", MAPS, config_map()),
        Step("PATCH", G, {"spec": {"size": 4}}, STRATEGIC),
        Step("PATCH", G, {"spec": {"size": 4}}, JSON),
        Step("PATCH", M, {"data": {}}, JSON),
        Step("PATCH", M, {"data": {}}, "text/plain"),
        Step("PATCH", f"{G}?fieldManager=a", raw=b"{", type=APPLY, view=codes),
        Step("PATCH", f"{G}?fieldManager=a", [1], APPLY, view=codes),
        Step("POST", MAPS, raw=b"{}", type="text/plain"),
        Step("POST", MAPS, raw=b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yaml\n", type="application/yaml"),
        Step("POST", MAPS, raw=b"{", view=codes),
        Step("POST", MAPS, raw=b"[]", view=codes),
        Step("POST", MAPS, raw=b"", view=codes),
        Step("GET", M, accept="text/plain"),
        Step("GET", M, accept="text/plain, */*"),
    ),
    case(
        AREA,
        "bodies that are too large",
        Step("POST", MAPS, config_map("big", {"k": "x" * (3 * 1024 * 1024)}), view=codes),
        Step("POST", MAPS, config_map("large", {"k": "x" * (1024 * 1024 + 1)}), view=causes),
    ),
]
