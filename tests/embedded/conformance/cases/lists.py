"""Lists: pages, selectors, versions, tables."""

from tests.embedded.conformance.case import MERGE, TABLE, Answer, Case, Step, case
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
    marked,
    pod,
)
from tests.embedded.conformance.exchange import codes
from tests.embedded.conformance.gadgets import DEFINITIONS

AREA = "lists"
FIVE = [Step("POST", MAPS, config_map(f"m{index}", labels={"t": "x"})) for index in range(5)]
PAGE = f"{MAPS}?labelSelector=t%3Dx&limit=2"
THREE = [
    Step("POST", GADGETS, marked(name, labels={"app": name, "tier": "x" if name < "c" else "y"})) for name in "abc"
]
PARTIAL = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"


def names(answer: Answer) -> object:
    """The names alone, and what pages say of the rest."""
    if answer.code >= 400:
        return answer.body["reason"], answer.body["message"]
    metadata = answer.body["metadata"]
    left = bool(metadata.get("continue")), metadata.get("remainingItemCount")
    return [item["metadata"]["name"] for item in answer.body["items"]], left


def selected(path: str, *selectors: str, kind: str = "labelSelector") -> list[Step]:
    """A list for each selector."""
    return [Step("GET", f"{path}?{kind}={each}", view=names) for each in selectors]


CASES: list[Case] = [
    case(
        AREA,
        "pages (limit, continue)",
        *FIVE,
        Step("GET", PAGE, save={"token": "metadata.continue"}, view=names),
        Step("POST", MAPS, config_map("m9", labels={"t": "x"})),
        Step("DELETE", f"{MAPS}/m2"),
        Step("GET", f"{PAGE}&continue={{token}}", save={"token": "metadata.continue"}, view=names),
        Step("GET", f"{PAGE}&continue={{token}}", view=names),
        Step("GET", f"{MAPS}?limit=1&labelSelector=t%3Dnone", view=names),
        Step("GET", f"{MAPS}?limit=-1&labelSelector=t%3Dx", view=names),
        Step("GET", f"{MAPS}?limit=x&labelSelector=t%3Dx", view=names),
        *THREE,
        Step("GET", f"{GADGETS}?limit=2", save={"token": "metadata.continue"}),
        Step("GET", f"{GADGETS}?limit=2&continue={{token}}"),
    ),
    case(
        AREA,
        "continue tokens that are wrong",
        *THREE,
        Step("GET", f"{GADGETS}?continue=nonsense", view=codes),
        Step("GET", f"{GADGETS}?limit=1", save={"token": "metadata.continue", "version": "metadata.resourceVersion"}),
        Step("GET", f"{GADGETS}?limit=1&continue={{token}}&resourceVersion={{version}}", view=names),
    ),
    case(
        AREA,
        "resourceVersion and resourceVersionMatch",
        Step("POST", GADGETS, gadget("a"), save={"first": "metadata.resourceVersion"}),
        Step("POST", GADGETS, gadget("b"), save={"second": "metadata.resourceVersion"}),
        Step("GET", f"{GADGETS}?resourceVersion=0", when=lambda answer: len(answer.body["items"]) == 2, view=names),
        Step("GET", f"{GADGETS}?resourceVersion={{second}}", view=names),
        Step("GET", f"{GADGETS}?resourceVersion={{first}}&resourceVersionMatch=Exact", view=names),
        Step("GET", f"{GADGETS}?resourceVersion={{first}}&resourceVersionMatch=NotOlderThan", view=names),
        Step("GET", f"{GADGETS}?resourceVersion={{first}}&limit=1", view=names),
        Step("GET", f"{GADGETS}?resourceVersionMatch=Exact", view=names),
        Step("GET", f"{GADGETS}?resourceVersion=0&resourceVersionMatch=Exact", view=names),
        Step("GET", f"{GADGETS}?resourceVersion=1&resourceVersionMatch=Nonsense", view=names),
        Step("GET", f"{GADGETS}?resourceVersion=nonsense", view=names),
        Step("GET", f"{GADGETS}/a?resourceVersion=0"),
    ),
    case(
        AREA,
        "label selectors",
        *THREE,
        *selected(
            GADGETS,
            *("app%3Da", "app%3D%3Da", "app%21%3Da", "app+in+(a,b)", "app+notin+(a,b)", "app", "%21app", "none"),
            *("app%3Da,tier%3Dx", "app+in+(a,b),tier%3Dx", "%21none,tier%3Dy", "app%3D", "app+in+()"),
        ),
        *selected(GADGETS, "app+in+(a", "%3Da", "app%3Da%3Db", "a+b+c", "app%3E5", "app%3Eb", "app%3Db+c"),
        Step("GET", f"{GADGETS}?labelSelector=Bad_%2F%3Dx", view=codes),
    ),
    case(
        AREA,
        "field selectors",
        *THREE,
        *selected(
            GADGETS,
            *("metadata.name%3Da", "metadata.name%21%3Da", "metadata.namespace%3D{namespace}", "spec.size%3D3"),
            *("metadata.name%3Da,metadata.name%3Db", "nonsense"),
            kind="fieldSelector",
        ),
        Step("POST", PODS, pod("p")),
        Step("POST", PODS, pod("q", nodeName="n", restartPolicy="Never")),
        *selected(
            PODS,
            *("spec.nodeName%3Dn", "spec.nodeName%3D", "spec.restartPolicy%3DNever", "status.phase%21%3DRunning"),
            *("spec.nonsense%3D1", "spec.schedulerName%3Dnobody,metadata.name%3Dp"),
            kind="fieldSelector",
        ),
        Step("POST", SECRETS, {"metadata": {"name": "s"}, "type": "example.com/x"}),
        *selected(SECRETS, "type%3Dexample.com%2Fx", "type%3DOpaque", "data%3Dx", kind="fieldSelector"),
        *selected("/api/v1/namespaces", "metadata.name%3D{namespace},status.phase%3DActive", kind="fieldSelector"),
        *selected(MAPS, "data.x%3D1", kind="fieldSelector"),
    ),
    case(
        AREA,
        "across namespaces",
        *THREE,
        Step("GET", GADGETS.replace("namespaces/{namespace}/", "") + "?fieldSelector=metadata.namespace%3D{namespace}"),
        Step("GET", "/api/v1/namespaces/nowhere/configmaps", view=names),
        Step("GET", "/api/v1/namespaces/nowhere/configmaps/x"),
    ),
    case(
        "tables",
        "custom resources: printer columns",
        Step("POST", GADGETS, gadget("a", items=[{"name": "a"}, {"name": "b"}], flag=True, tags=["t1", "t2"])),
        Step("POST", GADGETS, gadget("b")),
        Step("PATCH", f"{GADGETS}/b/status", {"status": {"phase": "Up"}}, MERGE),
        Step("GET", GADGETS, accept=TABLE),
        Step("GET", f"{GADGETS}/b", accept=TABLE),
        Step("GET", f"{GADGETS}?includeObject=None", accept=TABLE),
        Step("GET", f"{GADGETS}?includeObject=Object", accept=TABLE),
    ),
    case(
        "tables",
        "pods, services, secrets, config maps, namespaces",
        Step("POST", PODS, pod("p")),
        Step("POST", PODS, pod("q", nodeName="n")),
        Step("GET", PODS, accept=TABLE),
        Step("POST", SERVICES, {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}),
        Step("POST", SERVICES, {"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "selector": {"a": "b"}}}),
        Step("GET", SERVICES, accept=TABLE),
        Step("POST", SECRETS, {"metadata": {"name": "s"}, "stringData": {"a": "b", "c": "d"}}),
        Step("GET", SECRETS, accept=TABLE),
        Step("POST", MAPS, config_map("m", {"a": "b"})),
        Step("GET", f"{MAPS}/m", accept=TABLE),
        Step("GET", "/api/v1/namespaces/{namespace}", accept=TABLE),
        Step("GET", f"{EVENTS}?includeObject=None", accept=TABLE),
        Step("GET", f"{CORE}/serviceaccounts/default", until=200, accept=TABLE),
        Step("POST", LEASES, {"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}}),
        Step("GET", LEASES, accept=TABLE),
        Step("GET", f"{DEFINITIONS}/gadgets.conformance.shoal.dev?includeObject=None", accept=TABLE),
    ),
    case(
        "tables",
        "metadata alone (PartialObjectMetadata)",
        *THREE,
        Step("GET", GADGETS, accept=PARTIAL),
        Step("GET", f"{GADGETS}/a", accept="application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"),
        Step("GET", f"{GADGETS}?limit=1", accept=TABLE),
    ),
]
