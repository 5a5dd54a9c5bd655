"""Values that cannot work are refused, and the message names the key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.chart.cases import CASES
from tests.chart.helm import CHART, Helm, HelmError

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"replicas": 1}, "replicas"),
    "unknown key below": ({"operator": {"replica": 1}}, "replica"),
    "no election": ({"operator": {"leaderElection": False}}, "/operator/leaderElection"),
    "too many operators": ({"operator": {"replicas": 9}}, "/operator/replicas"),
    "text for a number": ({"operator": {"replicas": "2"}}, "/operator/replicas"),
    "no workers": ({"operator": {"workers": 0}}, "/operator/workers"),
    "two namespaces": ({"watchNamespaces": ["a", "b"]}, "/watchNamespaces"),
    "a namespace that is none": ({"watchNamespaces": ["Not_a_name"]}, "/watchNamespaces/0"),
    "no prefix": ({"image": {"prefix": ""}}, "/image/prefix"),
    "a tag in the prefix's place": ({"image": {"tag": "a:b"}}, "/image/tag"),
    "pull policy": ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    "pull secret as text": ({"image": {"pullSecrets": ["registry"]}}, "/image/pullSecrets/0"),
    "an image with a space": ({"images": {"engine": "a b"}}, "/images/engine"),
    "a role that is none": ({"images": {"engines": "a"}}, "engines"),
    "no account": ({"serviceAccount": {"create": False}}, "/serviceAccount/name"),
    "as root": ({"podSecurityContext": {"runAsUser": 0}}, "/podSecurityContext/runAsUser"),
    "may be root": ({"podSecurityContext": {"runAsNonRoot": False}}, "/podSecurityContext/runAsNonRoot"),
    "privileged": ({"securityContext": {"privileged": True}}, "/securityContext/privileged"),
    "escalation": ({"securityContext": {"allowPrivilegeEscalation": True}}, "allowPrivilegeEscalation"),
    "capabilities": ({"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}, "add"),
    "low port": ({"metrics": {"port": 80}}, "/metrics/port"),
    "metrics for nobody": ({"metrics": {"address": "127.0.0.1"}}, "/metrics/address"),
    "nothing to scrape": (
        {"serviceMonitor": {"enabled": True}, "metrics": {"service": {"enabled": False}}},
        "/metrics/service/enabled",
    ),
    "interval": ({"podMonitor": {"interval": "30"}}, "/podMonitor/interval"),
    "quantity": ({"resources": {"limits": {"memory": "512 MB"}}}, "/resources/limits/memory"),
    "a label of the chart's": ({"commonLabels": {"app.kubernetes.io/name": "x"}}, "/commonLabels/app.kubernetes.io"),
    "a pod label of the chart's": ({"podLabels": {"app.kubernetes.io/instance": "x"}}, "/podLabels/app.kubernetes.io"),
    "a number as annotation": ({"podAnnotations": {"a": 1}}, "/podAnnotations/a"),
    "a system's class": ({"priorityClass": {"create": True, "name": "system-x"}}, "/priorityClass/name"),
    "a priority too high": ({"priorityClass": {"value": 2000000000}}, "/priorityClass/value"),
    "spread": ({"topologySpread": {"whenUnsatisfiable": "Never"}}, "/topologySpread/whenUnsatisfiable"),
    "toleration": ({"tolerations": [{"effect": "Sometimes"}]}, "/tolerations/0/effect"),
    "no API server": ({"networkPolicy": {"apiServerPorts": []}}, "/networkPolicy/apiServerPorts"),
    "address without a range": ({"networkPolicy": {"apiServerCidrs": ["192.0.2.1"]}}, "apiServerCidrs/0"),
    "an object without a kind": ({"extraObjects": [{"apiVersion": "v1"}]}, "/extraObjects/0"),
    "the pod's own name": ({"operator": {"env": [{"name": "POD_NAME", "value": "x"}]}}, "/operator/env/0/name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_what_cannot_work(helm: Helm, case: str) -> None:
    values, named = REFUSED[case]
    with pytest.raises(HelmError) as caught:
        helm.text(values)
    assert "values don't meet the specifications of the schema" in str(caught.value)
    assert named in str(caught.value)


ACCEPTED: dict[str, dict[str, Any]] = {
    "one operator without election": {"operator": {"replicas": 1, "leaderElection": False}},
    "stopped": {"operator": {"replicas": 0}},
    "users given by the namespace, as in OpenShift": {
        "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}
    },
    "a registry with a port": {"image": {"prefix": "localhost:5000/shoal"}},
    "a digest": {"images": {"operator": "registry.example.com/a/b@sha256:" + "a" * 64}},
    "as part of another chart": {"global": {"anything": 1}},
    "a quantity without a unit": {"resources": {"limits": {"cpu": 1}}},
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepts_what_works(helm: Helm, case: str) -> None:
    assert helm.render(ACCEPTED[case])


def test_lint_finds_nothing(helm: Helm) -> None:
    for values in CASES.values():
        helm.run("lint", str(CHART), "--strict", "--kube-version", "1.34.4", values=values)


def places(schema: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every schema of an object with properties, by path."""
    if isinstance(schema, dict) and schema.get("type") == "object" and "properties" in schema:
        yield path, schema
        for name, below in schema["properties"].items():
            yield from places(below, f"{path}.{name}")
    if isinstance(schema, dict) and isinstance(schema.get("items"), dict):
        yield from places(schema["items"], f"{path}[]")


def test_unknown_keys_are_forbidden_at_every_level() -> None:
    roots = [("", SCHEMA), *SCHEMA["definitions"].items()]
    open_ = [
        place for name, root in roots for place, schema in places(root, name) if "additionalProperties" not in schema
    ]
    # An object of the user's own may hold anything beside what is asked of it.
    assert [place for place in open_ if not place.startswith(".extraObjects")] == []


def test_knows_every_value_and_no_other() -> None:
    def compare(values: dict[str, Any], schema: dict[str, Any], path: str) -> None:
        if "$ref" in schema:
            schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
        properties = schema.get("properties")
        if properties is None or not isinstance(values, dict) or path in PASSED_ON:
            return
        assert set(values) == set(properties) - {"global"}, path
        for name, value in values.items():
            compare(value, properties[name], f"{path}.{name}")

    compare(VALUES, SCHEMA, "")


PASSED_ON = {
    ".resources",
    ".podSecurityContext",
    ".securityContext",
    ".affinity",
    ".commonLabels",
    ".podLabels",
    ".dashboard.labels",
    ".operator.livenessProbe",
    ".operator.readinessProbe",
}
"""Kubernetes' own objects: the schema knows more fields of them than the chart sets."""
