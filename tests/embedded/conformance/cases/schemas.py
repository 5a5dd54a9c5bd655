"""Custom resources: what schemas and rules accept, refuse, prune and fill in."""

from typing import Any

from tests.api.samples import SAMPLES, changed
from tests.crdgen.cases import CASES as SHOAL_CASES
from tests.crdgen.cases import CHANGES
from tests.embedded.conformance.case import Case, Step, case
from tests.embedded.conformance.cases.common import GADGETS, gadget
from tests.embedded.conformance.exchange import codes

SPECS: dict[str, dict[str, dict[str, Any]]] = {
    "required fields": {"least": {}, "absent": {"size": None}},
    "types": {
        "integer": {"even": "three"},
        "fraction": {"even": 1.5},
        "boolean": {"flag": "yes"},
        "string": {"name": 5},
        "list": {"tags": "t"},
        "object": {"nested": [1]},
        "item": {"plain": [1, "x"]},
        "whole number": {"ratio": 0, "even": 2.0},
        "null": {"nothing": None, "size": 3},
    },
    "numbers: bounds and multiples": {
        "minimum": {"size": 0},
        "maximum": {"size": 11},
        "exclusive minimum": {"ratio": 0},
        "exclusive maximum": {"ratio": 1},
        "inside": {"ratio": 0.5},
        "multiple": {"even": 3},
    },
    "strings: enum, pattern, length, format": {
        "enum": {"mode": "C"},
        "pattern": {"name": "A1"},
        "shortest": {"name": "a"},
        "longest": {"name": "abcdefgh"},
        "time": {"when": "2026-01-01T00:00:00Z"},
        "no time": {"when": "yesterday"},
    },
    "integer or string": {"integer": {"port": 80}, "name": {"port": "http"}, "other": {"port": True}},
    "lists: sizes, sets, keys of items": {
        "without key": {"items": [{"value": 1}]},
        "twice the key": {"items": [{"name": "a"}, {"name": "a"}]},
        "too many": {"items": [{"name": each} for each in "abcd"]},
        "too few": {"tags": []},
        "twice in a set": {"tags": ["t", "t"]},
    },
    "maps: sizes and values": {
        "value": {"labels": {"a": "long value"}},
        "type": {"labels": {"a": 1}},
        "too many": {"labels": {"a": "1", "b": "2", "c": "3"}},
        "too few": {"pair": {"a": "1"}},
    },
    "defaults": {"items": {"items": [{"name": "a"}, {"name": "b", "value": 1}]}, "nested": {"nested": {"text": "x"}}},
    "pruning": {"unknown": {"unknown": 1, "nested": {"text": "x", "more": 2}}, "kept": {"free": {"a": {"b": [1]}}}},
    "oneOf": {
        "none": {"choice": {}},
        "one": {"choice": {"left": "x"}},
        "both": {"choice": {"left": "x", "right": "y"}},
    },
    "CEL rules": {
        "message expression": {"low": 2, "high": 1},
        "field path": {"name": "bad"},
        "no message": {"tags": ["x"]},
        "reason": {"mode": "B"},
        "in a map": {"limits": {"k": {"most": 100}}},
        "missing field": {"limits": {"k": {}}},
    },
    "several refusals at once": {"several": {"size": 0, "mode": "C", "name": "A"}},
}


def _trials() -> list[Case]:
    return [
        case(
            "custom resources",
            name,
            *(Step("POST", f"{GADGETS}?dryRun=All", gadget(**each)) for each in specs.values()),
        )
        for name, specs in SPECS.items()
    ]


def _shoal(kind: str) -> str:
    plurals = {"EnvironmentPool": "environmentpools", "RolloutFleet": "rolloutfleets", "RLJob": "rljobs"}
    return f"/apis/rl.shoal.dev/v1alpha1/namespaces/{{namespace}}/{plurals[kind]}"


def _own_kinds() -> list[Case]:
    """Each rule, default and pruned field of Shoal's kinds; transition rules on an object that is there."""
    kinds = ("EnvironmentPool", "RolloutFleet", "RLJob")
    cases = []
    for kind in kinds:
        path = _shoal(kind)
        bodies = [each.body for each in SHOAL_CASES if each.kind == kind]
        steps = [Step("POST", f"{path}?dryRun=All&fieldValidation=Strict", body) for body in bodies]
        cases.append(case("Shoal's kinds", f"{kind}: every rule accepts and refuses", *steps))
        whole = [Step("POST", path, SAMPLES[kind]), Step("GET", f"{path}/sample")]
        unknown = {**SAMPLES[kind], "spec": {**SAMPLES[kind]["spec"], "nonsense": 1}}
        whole += [Step("POST", f"{path}?dryRun=All", {**unknown, "metadata": {"name": "other"}})]
        cases.append(case("Shoal's kinds", f"{kind}: defaults and pruning", *whole))
        changes = [each for each in CHANGES if each.kind == kind]
        steps = [Step("POST", path, SAMPLES[kind])]
        for change in changes:
            for where, value in ((change.allowed_path, change.allowed_value), (change.path, change.value)):
                body = changed(kind, where, value)
                steps.append(
                    Step("PATCH", f"{path}/sample?fieldManager=x&force=true", body, "application/apply-patch+yaml")
                )
        cases.append(case("Shoal's kinds", f"{kind}: what may not change", *steps))
    return cases


TRANSITIONS = case(
    "custom resources",
    "CEL rules on changes (oldSelf)",
    Step("POST", GADGETS, gadget(fixed="x")),
    Step("PATCH", f"{GADGETS}/g", {"spec": {"fixed": "y"}}, "application/merge-patch+json"),
    Step("PATCH", f"{GADGETS}/g", {"spec": {"fixed": None}}, "application/merge-patch+json"),
    Step("PATCH", f"{GADGETS}/g", {"spec": {"fixed": "y"}}, "application/merge-patch+json"),
)
DECLARED = case(
    "custom resources",
    "apiVersion and kind of the body",
    Step("POST", GADGETS, {**gadget("v"), "apiVersion": "conformance.shoal.dev/v9"}),
    Step("POST", GADGETS, {**gadget("v"), "kind": "Widget"}, view=codes),
    Step("POST", GADGETS, {key: value for key, value in gadget("v").items() if key != "kind"}, view=codes),
    Step("POST", GADGETS, {key: value for key, value in gadget("v").items() if key != "apiVersion"}),
    Step("POST", GADGETS, {**gadget("v"), "spec": None}),
    Step("POST", GADGETS, {**gadget("w"), "spec": "text"}, view=codes),
)

CASES = [*_trials(), TRANSITIONS, DECLARED, *_own_kinds()]
