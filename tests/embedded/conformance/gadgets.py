"""A definition that uses every feature of structural schemas that the embedded server knows."""

from typing import Any

Json = dict[str, Any]

STRING: Json = {"type": "string"}
INTEGER: Json = {"type": "integer"}
ITEM: Json = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": STRING, "value": {"type": "integer", "default": 7}, "note": STRING},
}
SPEC: Json = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 10},
        "even": {"type": "integer", "multipleOf": 2},
        "ratio": {"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 1, "exclusiveMaximum": True},
        "mode": {"type": "string", "enum": ["A", "B"], "default": "A"},
        "name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 5},
        "port": {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        "flag": {"type": "boolean"},
        "when": {"type": "string", "format": "date-time"},
        "nothing": {"type": "string", "nullable": True},
        "items": {
            "type": "array",
            "maxItems": 3,
            "items": ITEM,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
        "tags": {"type": "array", "minItems": 1, "maxItems": 4, "items": STRING, "x-kubernetes-list-type": "set"},
        "plain": {"type": "array", "items": INTEGER},
        "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 3}, "maxProperties": 2},
        "pair": {"type": "object", "additionalProperties": STRING, "minProperties": 2},
        "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": STRING},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "nested": {
            "type": "object",
            "default": {},
            "properties": {"depth": {"type": "integer", "default": 3}, "text": STRING},
        },
        "choice": {
            "type": "object",
            "properties": {"left": STRING, "right": STRING},
            "oneOf": [{"required": ["left"]}, {"required": ["right"]}],
        },
        "low": INTEGER,
        "high": INTEGER,
        "fixed": {
            "type": "string",
            "maxLength": 20,
            "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "fixed is immutable"}],
        },
        "limits": {
            "type": "object",
            "maxProperties": 5,
            "additionalProperties": {
                "type": "object",
                "properties": {"most": INTEGER},
                "x-kubernetes-validations": [{"rule": "self.most < 100", "message": "most is below 100"}],
            },
        },
    },
    "x-kubernetes-validations": [
        {
            "rule": "!has(self.low) || !has(self.high) || self.low <= self.high",
            "messageExpression": "self.high > 0 ? 'low is above a positive high' : 'low is above high'",
        },
        {
            "rule": "!has(self.name) || self.name != 'bad'",
            "message": "a bad name",
            "fieldPath": ".name",
            "reason": "FieldValueForbidden",
        },
        {"rule": "!has(self.tags) || self.tags.all(t, t.startsWith('t'))"},
        {"rule": "self.mode != 'B' || has(self.flag)", "message": "mode B needs flag", "reason": "FieldValueRequired"},
    ],
}
STATUS: Json = {
    "type": "object",
    "properties": {
        "replicas": INTEGER,
        "phase": STRING,
        "selector": STRING,
        "since": {**STRING, "format": "date-time"},
    },
}
COLUMNS: list[Json] = [
    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
    {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
    {"name": "Flag", "type": "boolean", "jsonPath": ".spec.flag"},
    {"name": "First", "type": "string", "jsonPath": ".spec.items[0].name"},
    {"name": "Tags", "type": "string", "jsonPath": ".spec.tags"},
    {"name": "Nested", "type": "string", "jsonPath": ".spec.nested"},
    {"name": "All", "type": "string", "jsonPath": ".spec.items[*].name"},
    {"name": "Chosen", "type": "integer", "jsonPath": '.spec.items[?(@.name=="b")].value', "priority": 1},
]
DEFINITION: Json = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "gadgets.conformance.shoal.dev"},
    "spec": {
        "group": "conformance.shoal.dev",
        "scope": "Namespaced",
        "names": {"plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": SPEC, "status": STATUS}}},
                "additionalPrinterColumns": COLUMNS,
                "subresources": {
                    "status": {},
                    "scale": {
                        "specReplicasPath": ".spec.size",
                        "statusReplicasPath": ".status.replicas",
                        "labelSelectorPath": ".status.selector",
                    },
                },
            }
        ],
    },
}
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GADGETS = "/apis/conformance.shoal.dev/v1/namespaces/{namespace}/gadgets"


def gadget(called: str = "g", /, **spec: Any) -> Json:
    """A gadget that is valid but for what `spec` says; a field given as None is left out."""
    merged = {"size": 3, **spec}
    return {
        "apiVersion": "conformance.shoal.dev/v1",
        "kind": "Gadget",
        "metadata": {"name": called},
        "spec": {key: value for key, value in merged.items() if value is not None},
    }
