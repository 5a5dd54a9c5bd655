"""Server-side apply: owners, conflicts, force, and what a manager no longer sets."""

from typing import Any

from tests.embedded.conformance.case import APPLY, JSON_PATCH, MERGE, Case, Step, case
from tests.embedded.conformance.cases.common import GADGETS, MAPS, PODS, SERVICES, config_map, gadget, marked, pod

AREA = "server-side apply"


UNMERGED = (
    "a configuration that cannot be merged is refused by validation (422, with the field); kube-apiserver fails "
    "earlier, with 500"
)


def by(manager: str, spec: dict[str, Any], *, force: bool = False, name: str = "h", differs: str = "") -> Step:
    """A gadget applied by a manager."""
    query = f"fieldManager={manager}&force=true" if force else f"fieldManager={manager}"
    return Step("PATCH", f"{GADGETS}/{name}?{query}", gadget(name, **spec), APPLY, differs=differs)


def update(manager: str, patch: dict[str, Any], name: str = "h", sub: str = "") -> Step:
    """A gadget patched by a manager."""
    return Step("PATCH", f"{GADGETS}/{name}{sub}?fieldManager={manager}", patch, MERGE)


CASES: list[Case] = [
    case(
        AREA,
        "creates, and changes what is there",
        by("alice", {"items": [{"name": "a"}], "whole": {"x": "y"}}),
        by("alice", {"items": [{"name": "a", "value": 2}], "whole": {"x": "z"}}),
        by("alice", {"items": [{"name": "a", "value": 2}], "whole": {"x": "z"}}),
        Step("PATCH", f"{GADGETS}/h", gadget("h"), APPLY),
        Step("PATCH", f"{GADGETS}/other?fieldManager=a", gadget("h"), APPLY),
        Step("PATCH", f"{GADGETS}/h?fieldManager=a", {"spec": {"size": 3}}, APPLY),
        Step("PATCH", f"{GADGETS}/h?fieldManager=a", {**gadget("h"), "kind": "Other"}, APPLY),
        Step("PATCH", f"{GADGETS}/h?fieldManager=a", marked("h", managedFields=[{"manager": "x"}]), APPLY),
        Step("PATCH", f"{GADGETS}/n?fieldManager=a&dryRun=All", gadget("n"), APPLY),
        Step("GET", f"{GADGETS}/n"),
    ),
    case(
        AREA,
        "conflicts between appliers, and force",
        by("alice", {"size": 3, "mode": "A"}),
        by("bob", {"size": 4}),
        by("bob", {"size": 4, "mode": "B", "flag": True}),
        by("bob", {"size": 4}, force=True),
        by("alice", {"size": 5, "mode": "A"}),
        by("carol", {"size": 4}),
        by("alice", {"size": 7}),
        by("alice", {"size": 4}),
    ),
    case(
        AREA,
        "items of keyed lists, sets, atomic maps and lists",
        by("alice", {"items": [{"name": "a"}], "tags": ["t1"], "plain": [1], "whole": {"x": "y"}}),
        by("bob", {"items": [{"name": "b", "note": "n"}], "tags": ["t2"]}),
        by("bob", {"items": [{"name": "a", "value": 5}]}),
        by("carol", {"items": [{"name": "a", "value": 5}]}),
        by("carol", {"plain": [2]}),
        by("carol", {"whole": {"z": "y"}}),
        by("carol", {"plain": [2], "whole": {"z": "y"}}, force=True),
        by("alice", {"items": [{"name": "c"}, {"name": "a"}]}),
        by("alice", {"items": []}),
    ),
    case(
        AREA,
        "what a manager no longer sets goes",
        by("alice", {"nested": {"text": "x"}, "labels": {"a": "1", "b": "2"}, "free": {"a": {"b": [1]}}}),
        by("bob", {"labels": {"b": "2"}}),
        by("alice", {"labels": {"a": "1"}}),
        by("alice", {}),
        by("bob", {}),
        by("alice", {"limits": {"k": {"most": 1}}}),
        by("bob", {"limits": {"l": {"most": 2}}}),
        by("alice", {}),
    ),
    case(
        AREA,
        "labels, annotations, finalizers and owners",
        Step(
            "PATCH",
            f"{GADGETS}/h?fieldManager=alice",
            marked("h", labels={"a": "1"}, finalizers=["example.com/a"]),
            APPLY,
        ),
        Step(
            "PATCH",
            f"{GADGETS}/h?fieldManager=bob",
            marked("h", labels={"b": "1"}, finalizers=["example.com/b"]),
            APPLY,
        ),
        Step("PATCH", f"{GADGETS}/h?fieldManager=alice", marked("h", annotations={"x": "y"}), APPLY),
        Step("PATCH", f"{GADGETS}/h?fieldManager=bob", marked("h"), APPLY),
    ),
    case(
        AREA,
        "fields of those who update conflict, too",
        Step("POST", f"{GADGETS}?fieldManager=maker", gadget("h", flag=True)),
        by("alice", {"size": 3}),
        by("alice", {"size": 4}),
        by("alice", {"size": 4}, force=True),
        update("kubectl-edit", {"spec": {"size": 5, "name": "abc"}}),
        by("alice", {"size": 4}),
        update("kubectl-edit", {"spec": {"name": None, "mode": None}}),
        update("maker", {"spec": {"flag": False}}),
        update("other", {"metadata": {"labels": {"a": "b"}}}),
        Step(
            "PATCH", f"{GADGETS}/h", [{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}], JSON_PATCH
        ),
    ),
    case(
        AREA,
        "the status by its own subresource",
        by("alice", {}),
        Step("PATCH", f"{GADGETS}/h/status?fieldManager=alice", {**gadget("h"), "status": {"phase": "Up"}}, APPLY),
        Step("PATCH", f"{GADGETS}/h/status?fieldManager=bob", {**gadget("h"), "status": {"phase": "Down"}}, APPLY),
        update("carol", {"status": {"phase": "Other", "replicas": 1}}, sub="/status"),
        Step("PATCH", f"{GADGETS}/h/status?fieldManager=alice", {**gadget("h"), "status": {"phase": "Up"}}, APPLY),
        Step(
            "PATCH", f"{GADGETS}/none/status?fieldManager=bob", {**gadget("none"), "status": {"phase": "Down"}}, APPLY
        ),
        Step("PATCH", f"{GADGETS}/h?fieldManager=alice", {**gadget("h"), "status": {"phase": "Ignored"}}, APPLY),
    ),
    case(
        AREA,
        "fields that the schema does not have, and misfits",
        by("alice", {"unknown": 1}),
        by("alice", {"size": 99}),
        by("alice", {"size": "text"}, differs=UNMERGED),
        by("alice", {"items": [{"name": "a"}, {"name": "a"}]}, differs=UNMERGED),
        by("alice", {"items": [{"value": 1}]}, differs=UNMERGED),
        by("alice", {"tags": ["t", "t"]}, differs=UNMERGED),
    ),
    case(
        AREA,
        "config maps",
        Step("PATCH", f"{MAPS}/m?fieldManager=alice", config_map("m", {"k": "v"}), APPLY),
        Step("PATCH", f"{MAPS}/m?fieldManager=bob", config_map("m", {"k": "w"}), APPLY),
        Step("PATCH", f"{MAPS}/m?fieldManager=bob&force=true", config_map("m", {"k": "w", "l": "1"}), APPLY),
        Step("PATCH", f"{MAPS}/m?fieldManager=alice", config_map("m"), APPLY),
        Step("PATCH", f"{MAPS}/m?fieldManager=bob", config_map("m"), APPLY),
        Step(
            "PATCH",
            f"{MAPS}/m?fieldManager=bob",
            {**config_map("m"), "nonsense": 1},
            APPLY,
            differs="built-in kinds have no schema here: a field that they do not have is stored, not refused",
        ),
    ),
    case(
        AREA,
        "pods and services",
        Step("PATCH", f"{PODS}/p?fieldManager=alice", pod("p"), APPLY),
        Step("PATCH", f"{PODS}/p?fieldManager=bob", {**pod("p", containers=[{"name": "a", "image": "x"}])}, APPLY),
        Step(
            "PATCH",
            f"{PODS}/p?fieldManager=bob&force=true",
            {**pod("p", containers=[{"name": "a", "image": "x"}, {"name": "b", "image": "two"}])},
            APPLY,
        ),
        Step(
            "PATCH",
            f"{SERVICES}/s?fieldManager=alice",
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}},
            APPLY,
        ),
        Step(
            "PATCH",
            f"{SERVICES}/s?fieldManager=bob",
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "s"},
                "spec": {"ports": [{"port": 80, "name": "x"}], "selector": {"a": "b"}},
            },
            APPLY,
        ),
    ),
]
