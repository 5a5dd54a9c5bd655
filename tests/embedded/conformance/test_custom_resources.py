"""Custom resources on both API servers: validation, defaults, pruning, rules, subresources, tables, apply."""

import time
from typing import Any

import pytest

from tests.embedded.apiserver.conftest import Embedded
from tests.embedded.conformance.exchange import APPLY, JSON_PATCH, MERGE, STRATEGIC, Side, Step, differences, sides
from tests.embedded.conformance.gadgets import DEFINITION, DEFINITIONS, GADGETS, gadget
from tests.kubernetes import Kubernetes

SPECS: dict[str, dict[str, Any]] = {
    "least": {},
    "required": {"size": None},
    "type": {"even": "three"},
    "type of a number": {"even": 1.5},
    "type of a boolean": {"flag": "yes"},
    "type of a string": {"name": 5},
    "type of a list": {"tags": "t"},
    "type of an object": {"nested": [1]},
    "type of an item": {"plain": [1, "x"]},
    "minimum": {"size": 0},
    "maximum": {"size": 11},
    "exclusive minimum": {"ratio": 0},
    "exclusive maximum": {"ratio": 1},
    "inside": {"ratio": 0.5},
    "multiple": {"even": 3},
    "enum": {"mode": "C"},
    "pattern": {"name": "A1"},
    "shortest": {"name": "a"},
    "longest": {"name": "abcdefgh"},
    "integer port": {"port": 80},
    "named port": {"port": "http"},
    "port of another type": {"port": True},
    "time": {"when": "2026-01-01T00:00:00Z"},
    "no time": {"when": "yesterday"},
    "item defaults": {"items": [{"name": "a"}, {"name": "b", "value": 1}]},
    "item without key": {"items": [{"value": 1}]},
    "twice the key": {"items": [{"name": "a"}, {"name": "a"}]},
    "too many items": {"items": [{"name": each} for each in "abcd"]},
    "too few items": {"tags": []},
    "twice in a set": {"tags": ["t", "t"]},
    "map value": {"labels": {"a": "long value"}},
    "map type": {"labels": {"a": 1}},
    "too many keys": {"labels": {"a": "1", "b": "2", "c": "3"}},
    "too few keys": {"pair": {"a": "1"}},
    "whole number": {"ratio": 0, "even": 2.0},
    "free": {"free": {"any": {"thing": [1]}}},
    "pruned": {"unknown": 1, "nested": {"text": "x", "more": 2}},
    "one of none": {"choice": {}},
    "one of one": {"choice": {"left": "x"}},
    "one of both": {"choice": {"left": "x", "right": "y"}},
    "message expression": {"low": 2, "high": 1},
    "field path": {"name": "bad"},
    "no message": {"tags": ["x"]},
    "reason": {"mode": "B"},
    "rule in a map": {"limits": {"k": {"most": 100}}},
    "missing in a rule": {"limits": {"k": {}}},
    "several": {"size": 0, "mode": "C", "name": "A"},
}

LIFE = [
    Step("POST", GADGETS, gadget(fixed="x", items=[{"name": "a"}, {"name": "b"}], flag=True)),
    Step("POST", GADGETS, gadget()),
    Step("GET", f"{GADGETS}/g"),
    Step("GET", f"{GADGETS}/none"),
    Step("PATCH", f"{GADGETS}/g", {"spec": {"fixed": "y"}}, MERGE),
    Step("PATCH", f"{GADGETS}/g", {"spec": {"size": 4}}, MERGE),
    Step("PATCH", f"{GADGETS}/g", {"metadata": {"labels": {"a": "b"}}}, MERGE),
    Step("PATCH", f"{GADGETS}/g", {"spec": {"size": 99}}, MERGE),
    Step("PATCH", f"{GADGETS}/g", {"spec": {"size": 4}}, STRATEGIC),
    Step("PATCH", f"{GADGETS}/g", [{"op": "replace", "path": "/spec/size", "value": 5}], JSON_PATCH),
    Step("PATCH", f"{GADGETS}/g", [{"op": "remove", "path": "/spec/none"}], JSON_PATCH),
    Step("PATCH", f"{GADGETS}/g", {"status": {"phase": "ignored"}}, MERGE),
    Step("PATCH", f"{GADGETS}/g/status", {"status": {"phase": "Up", "replicas": 2, "selector": "a=b"}}, MERGE),
    Step("PATCH", f"{GADGETS}/g/status", {"spec": {"size": 9}, "status": {"phase": "Upper"}}, MERGE),
    Step("GET", f"{GADGETS}/g/scale"),
    Step("PATCH", f"{GADGETS}/g/scale", {"spec": {"replicas": 6}}, MERGE),
    Step("PATCH", f"{GADGETS}/g/scale", {"spec": {"replicas": 11}}, MERGE),
    Step("PUT", f"{GADGETS}/g", gadget(size=7)),
    Step("PATCH", f"{GADGETS}/g?fieldManager=alice&force=true", gadget(items=[{"name": "a", "value": 2}]), APPLY),
    Step("PATCH", f"{GADGETS}/g?fieldManager=bob", gadget(size=8), APPLY),
    Step("PATCH", f"{GADGETS}/g?fieldManager=bob&force=true", gadget(size=8), APPLY),
    Step("PATCH", f"{GADGETS}/h?fieldManager=alice", gadget("h", items=[{"name": "a"}], whole={"x": "y"}), APPLY),
    Step("PATCH", f"{GADGETS}/h?fieldManager=bob", gadget("h", items=[{"name": "b", "note": "n"}]), APPLY),
    Step("PATCH", f"{GADGETS}/h?fieldManager=bob", gadget("h", items=[{"name": "a", "value": 5}]), APPLY),
    Step("PATCH", f"{GADGETS}/h?fieldManager=carol", gadget("h", items=[{"name": "a", "value": 5}]), APPLY),
    Step("PATCH", f"{GADGETS}/h?fieldManager=carol", gadget("h", size=4, whole={"z": "y"}), APPLY),
    Step("PATCH", f"{GADGETS}/h?fieldManager=alice", gadget("h", whole={"x": "z"}), APPLY),
    Step("PATCH", f"{GADGETS}/h?fieldManager=alice", gadget("h", unknown=1), APPLY),
    Step("PATCH", f"{GADGETS}/h", gadget("h"), APPLY),
    Step("POST", f"{GADGETS}?fieldValidation=Strict", gadget("s", unknown=1, nested={"odd": 2})),
    Step("POST", f"{GADGETS}?dryRun=All", gadget("dry")),
    Step("GET", f"{GADGETS}/dry"),
    Step("POST", GADGETS, {**gadget("v"), "apiVersion": "conformance.shoal.dev/v9"}),
    Step("POST", GADGETS, gadget("Upper_Case")),
    Step("GET", GADGETS),
    Step("DELETE", f"{GADGETS}/g"),
    Step("DELETE", f"{GADGETS}/g"),
]


def define(side: Side) -> None:
    """Create the definition, and wait until it is served."""
    status, answer = side.send(Step("POST", DEFINITIONS, DEFINITION))
    assert status in (201, 409), answer["message"]
    deadline = time.monotonic() + 20
    while side.send(Step("GET", GADGETS))[0] != 200 or "openapi" not in str(side.send(Step("GET", "/openapi/v3"))):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def pair(embedded: Embedded, kubernetes: Kubernetes) -> tuple[Side, Side]:
    both = sides(embedded, kubernetes)
    for side in both:
        define(side)
    return both


def test_specs_are_taken_and_refused_alike(pair: tuple[Side, Side]) -> None:
    steps = [Step("POST", f"{GADGETS}?dryRun=All", gadget(**spec)) for spec in SPECS.values()]
    assert not (found := differences(*pair, steps)), "\n".join(found)


def test_lives_are_alike(pair: tuple[Side, Side]) -> None:
    assert not (found := differences(*pair, LIFE)), "\n".join(found)


def test_tables_are_alike(pair: tuple[Side, Side]) -> None:
    steps = [
        Step("POST", GADGETS, gadget("a", items=[{"name": "a"}, {"name": "b"}], flag=True, tags=["t1", "t2"])),
        Step("POST", GADGETS, gadget("b")),
        Step("PATCH", f"{GADGETS}/b/status", {"status": {"phase": "Up"}}, MERGE),
        Step("GET", GADGETS, table=True),
        Step("GET", f"{GADGETS}/b", table=True),
    ]
    assert not (found := differences(*pair, steps)), "\n".join(found)
