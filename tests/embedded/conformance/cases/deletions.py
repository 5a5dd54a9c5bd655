"""Deletions: finalizers, preconditions, grace, dependants, namespaces."""

from typing import Any

from tests.embedded.conformance.case import MERGE, Answer, Case, Step, case
from tests.embedded.conformance.cases.common import (
    GADGETS,
    HOLD,
    MAPS,
    PODS,
    SERVICES,
    config_map,
    gadget,
    marked,
    owner,
    pod,
)

AREA = "deletion"
SEVERAL = [Step("POST", MAPS, config_map(f"m{index}", labels={"t": "x" if index < 2 else "y"})) for index in range(3)]
UID = {"uid": "metadata.uid"}


def options(**fields: Any) -> dict[str, Any]:
    """DeleteOptions."""
    return {"kind": "DeleteOptions", "apiVersion": "v1", **fields}


def child(name: str, *owners: dict[str, Any], **metadata: Any) -> Step:
    """A config map that belongs to these."""
    return Step("POST", MAPS, config_map(name, ownerReferences=list(owners), **metadata))


def ownerless(answer: Answer) -> bool:
    """Whether nobody owns the object any more."""
    return answer.code == 200 and not answer.body["metadata"].get("ownerReferences")


def finalizers(answer: Answer) -> Any:
    """What keeps an object."""
    if answer.code >= 400:
        return answer.body["reason"]
    return sorted(answer.body["metadata"].get("finalizers", ())), "deletionTimestamp" in answer.body["metadata"]


def phase(answer: Answer) -> Any:
    """A namespace's phase."""
    status = answer.body.get("status")
    return status.get("phase") if isinstance(status, dict) else status


HELD = MAPS.replace("{namespace}", "{namespace}-x")
BLOCKING = {"controller": True, "blockOwnerDeletion": True}
CASES: list[Case] = [
    case(
        AREA,
        "at once",
        Step("POST", GADGETS, gadget()),
        Step("DELETE", f"{GADGETS}/g"),
        Step("DELETE", f"{GADGETS}/g"),
        Step("POST", MAPS, config_map()),
        Step("DELETE", f"{MAPS}/m"),
        Step("DELETE", f"{MAPS}/m"),
        Step("POST", SERVICES, {"metadata": {"name": "x"}, "spec": {"clusterIP": "None", "selector": {"a": "b"}}}),
        Step("DELETE", f"{SERVICES}/x"),
        Step("DELETE", "/api/v1/nodes/none"),
    ),
    case(
        AREA,
        "finalizers",
        Step("POST", GADGETS, marked("g", finalizers=[HOLD])),
        Step("DELETE", f"{GADGETS}/g"),
        Step("GET", f"{GADGETS}/g"),
        Step("DELETE", f"{GADGETS}/g"),
        Step("PATCH", f"{GADGETS}/g", {"spec": {"size": 4}}, MERGE),
        Step("PATCH", f"{GADGETS}/g", {"metadata": {"finalizers": [HOLD, "example.com/new"]}}, MERGE),
        Step("PATCH", f"{GADGETS}/g", {"metadata": {"finalizers": None}}, MERGE),
        Step("GET", f"{GADGETS}/g"),
        Step("POST", MAPS, config_map("held", finalizers=[HOLD])),
        Step("DELETE", f"{MAPS}/held"),
        Step("PATCH", f"{MAPS}/held", {"metadata": {"finalizers": []}}, MERGE),
        Step("GET", f"{MAPS}/held"),
    ),
    case(
        AREA,
        "preconditions",
        Step("POST", MAPS, config_map(), save={"uid": "metadata.uid", "version": "metadata.resourceVersion"}),
        Step("DELETE", f"{MAPS}/m", options(preconditions={"uid": "other"})),
        Step("DELETE", f"{MAPS}/m", options(preconditions={"resourceVersion": "1"})),
        Step("DELETE", f"{MAPS}/m", options(preconditions={"uid": "{uid}", "resourceVersion": "{version}"})),
        Step("POST", GADGETS, gadget(), save=UID),
        Step("DELETE", f"{GADGETS}/g", options(preconditions={"uid": "other"})),
        Step("DELETE", f"{GADGETS}/g", options(preconditions={"uid": "{uid}"})),
    ),
    case(
        AREA,
        "options that are wrong",
        Step("POST", MAPS, config_map()),
        Step("DELETE", f"{MAPS}/m", options(propagationPolicy="Nonsense")),
        Step("DELETE", f"{MAPS}/m", options(propagationPolicy="Orphan", orphanDependents=True)),
        Step("DELETE", f"{MAPS}/m?propagationPolicy=Nonsense"),
    ),
    case(
        AREA,
        "pods: grace periods",
        Step("POST", PODS, pod("p", nodeName="n")),
        Step("DELETE", f"{PODS}/p", options(gracePeriodSeconds=20)),
        Step("DELETE", f"{PODS}/p", options(gracePeriodSeconds=10)),
        Step("DELETE", f"{PODS}/p", options(gracePeriodSeconds=15)),
        Step("GET", f"{PODS}/p"),
        Step("DELETE", f"{PODS}/p", options(gracePeriodSeconds=0)),
        Step("GET", f"{PODS}/p"),
        Step("POST", PODS, pod("q")),
        Step("DELETE", f"{PODS}/q"),
        Step("GET", f"{PODS}/q"),
    ),
    case(
        AREA,
        "collections",
        *SEVERAL,
        Step("DELETE", f"{MAPS}?labelSelector=none%3Dnone"),
        Step("DELETE", f"{MAPS}?labelSelector=t%3Dx"),
        Step("GET", f"{MAPS}?labelSelector=t"),
        Step("POST", GADGETS, marked("held", finalizers=[HOLD])),
        Step("POST", GADGETS, gadget("free")),
        Step("DELETE", GADGETS),
        Step("GET", GADGETS),
        Step("PATCH", f"{GADGETS}/held", {"metadata": {"finalizers": None}}, MERGE),
    ),
    Case(
        AREA,
        "dependants go with their owner (Background)",
        (
            Step("POST", GADGETS, gadget(), save=UID),
            child("c", owner("Gadget", "g", "{uid}", **BLOCKING)),
            Step("DELETE", f"{GADGETS}/g", options(propagationPolicy="Background")),
            Step("GET", f"{MAPS}/c", until=404),
        ),
        controllers=True,
    ),
    Case(
        AREA,
        "dependants go first (Foreground)",
        (
            Step("POST", MAPS, config_map("o"), save=UID),
            child("c", owner("ConfigMap", "o", "{uid}", blockOwnerDeletion=True), finalizers=[HOLD]),
            child("d", owner("ConfigMap", "o", "{uid}", blockOwnerDeletion=True)),
            child("e", owner("ConfigMap", "o", "{uid}"), finalizers=[HOLD]),
            Step("DELETE", f"{MAPS}/o", options(propagationPolicy="Foreground")),
            Step("GET", f"{MAPS}/d", until=404),
            Step(
                "GET", f"{MAPS}/c", when=lambda answer: "deletionTimestamp" in answer.body["metadata"], view=finalizers
            ),
            Step("GET", f"{MAPS}/o", view=finalizers),
            Step("PATCH", f"{MAPS}/c", {"metadata": {"finalizers": None}}, MERGE, view=finalizers),
            Step("GET", f"{MAPS}/c", until=404),
            Step("GET", f"{MAPS}/o", until=404),
            Step("GET", f"{MAPS}/e", view=finalizers),
            Step("PATCH", f"{MAPS}/e", {"metadata": {"finalizers": None}}, MERGE, view=finalizers),
        ),
        controllers=True,
    ),
    Case(
        AREA,
        "dependants stay (Orphan)",
        (
            Step("POST", MAPS, config_map("o"), save=UID),
            child("c", owner("ConfigMap", "o", "{uid}")),
            Step("DELETE", f"{MAPS}/o?propagationPolicy=Orphan", view=lambda answer: None),
            Step("GET", f"{MAPS}/o", until=404),
            Step("GET", f"{MAPS}/c", when=ownerless, view=finalizers),
        ),
        controllers=True,
    ),
    Case(
        AREA,
        "an object of two owners goes with the last",
        (
            Step("POST", MAPS, config_map("o1"), save={"one": "metadata.uid"}),
            Step("POST", MAPS, config_map("o2"), save={"two": "metadata.uid"}),
            child("c", owner("ConfigMap", "o1", "{one}"), owner("ConfigMap", "o2", "{two}")),
            Step("DELETE", f"{MAPS}/o1"),
            Step(
                "GET",
                f"{MAPS}/c",
                when=lambda answer: len(answer.body["metadata"]["ownerReferences"]) == 1,
                view=lambda answer: [each["name"] for each in answer.body["metadata"]["ownerReferences"]],
            ),
            Step("DELETE", f"{MAPS}/o2"),
            Step("GET", f"{MAPS}/c", until=404),
        ),
        controllers=True,
    ),
    Case(
        AREA,
        "an owner that is not there, and one in another namespace",
        (
            child("lost", owner("ConfigMap", "never", "11111111-1111-1111-1111-111111111111")),
            Step("GET", f"{MAPS}/lost", until=404),
            Step("POST", "/api/v1/namespaces/default/configmaps", config_map("far-{namespace}"), save=UID),
            child("far", owner("ConfigMap", "far-{namespace}", "{uid}")),
            Step("GET", f"{MAPS}/far", until=404),
            Step("DELETE", "/api/v1/namespaces/default/configmaps/far-{namespace}"),
        ),
        controllers=True,
    ),
    Case(
        AREA,
        "namespaces end with what is in them",
        (
            Step("POST", "/api/v1/namespaces", {"metadata": {"name": "{namespace}-x"}}),
            Step("POST", "/api/v1/namespaces", {"metadata": {"name": "{namespace}-y"}}),
            Step("POST", HELD, config_map("held", finalizers=[HOLD])),
            Step("POST", HELD, config_map("free")),
            Step("POST", HELD.replace("-x", "-y"), config_map("free")),
            Step("DELETE", "/api/v1/namespaces/{namespace}-x", view=phase),
            Step("DELETE", "/api/v1/namespaces/{namespace}-y", view=phase),
            Step("POST", HELD, config_map("late")),
            Step("GET", f"{HELD}/free", until=404),
            Step("GET", "/api/v1/namespaces/{namespace}-x", view=phase),
            Step(
                "GET",
                f"{HELD}/held",
                when=lambda answer: "deletionTimestamp" in answer.body["metadata"],
                view=finalizers,
            ),
            Step("GET", "/api/v1/namespaces/{namespace}-y", until=404),
            Step("PATCH", f"{HELD}/held", {"metadata": {"finalizers": None}}, MERGE),
        ),
        controllers=True,
    ),
]
