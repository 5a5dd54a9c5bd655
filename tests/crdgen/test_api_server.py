"""The CRDs on a real API server: every rule accepted and rejected, defaults, pruning, scale."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from shoal.api.v1alpha1 import KINDS
from shoal.crdgen import generate
from tests.api.samples import SAMPLES, changed
from tests.crdgen.cases import CASES, CHANGES, Case, Change
from tests.kubernetes import Kubernetes


def walk(schema: Any) -> Iterator[str]:
    """Messages of all CEL rules in a schema."""
    if isinstance(schema, dict):
        for rule in schema.get("x-kubernetes-validations", []):
            yield rule["message"]
        for value in schema.values():
            yield from walk(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from walk(value)


@pytest.fixture(scope="module")
def server(kubernetes_server: Any) -> Any:
    kubernetes_server.kubectl("apply", "--server-side", "-f", "-", stdin=generate.as_yaml())
    for kind in KINDS:
        name = f"crd/{kind.resource.plural}.rl.shoal.dev"
        kubernetes_server.kubectl("wait", "--for=condition=Established", "--timeout=20s", name)
    return kubernetes_server


def apply(kubernetes: Kubernetes, body: dict[str, Any], *, dry: bool = True) -> str:
    """Apply; returns the refusal, or "" when it was accepted."""
    arguments = ["apply", "--server-side", "--validate=strict", "-f", "-", "-o", "yaml"]
    if dry:
        arguments.append("--dry-run=server")
    try:
        kubernetes.kubectl(*arguments, stdin=yaml.safe_dump(body))
    except AssertionError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.path}-{case.refusal[:20]}")
def test_accepts_and_refuses(server: Any, kubernetes: Kubernetes, case: Case) -> None:
    answer = apply(kubernetes, case.body)
    if case.refusal:
        assert case.refusal in answer
    else:
        assert answer == ""


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.refusal)
def test_keeps_what_is_immutable(server: Any, kubernetes: Kubernetes, change: Change) -> None:
    assert apply(kubernetes, SAMPLES[change.kind], dry=False) == ""
    assert apply(kubernetes, changed(change.kind, change.allowed_path, change.allowed_value)) == ""
    assert change.refusal in apply(kubernetes, changed(change.kind, change.path, change.value))


def part(case: Case) -> tuple[str, ...]:
    """Kind and first two words of the path: what an accepted and a refused case must share."""
    return case.kind, *case.path.split(".")[:2]


def test_every_rule_is_shown_to_refuse_and_to_accept() -> None:
    told = {message for definition in generate.definitions() for message in walk(definition)}
    accepting = {part(case) for case in CASES if not case.refusal}
    shown = {case.refusal for case in CASES if case.refusal and part(case) in accepting}
    shown |= {change.refusal for change in CHANGES}
    assert [message for message in told if not any(refusal in message for refusal in shown)] == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_server_defaults_as_the_models_do(server: Any, kubernetes: Kubernetes, kind: Any) -> None:
    sample = SAMPLES[kind.__name__]
    kubernetes.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(sample))
    stored = yaml.safe_load(kubernetes.kubectl("get", kind.resource.plural, "sample", "-o", "yaml"))
    spec = kind.model_fields["spec"].annotation
    assert spec.model_validate(stored["spec"]) == spec.model_validate(sample["spec"])
    defaults = spec.model_validate(sample["spec"]).to_json()
    assert without_empty(stored["spec"]) == without_empty(defaults)


def without_empty(value: Any) -> Any:
    """Without empty collections: absent and empty mean the same."""
    if isinstance(value, dict):
        kept = {key: without_empty(each) for key, each in value.items()}
        return {key: each for key, each in kept.items() if each not in ({}, [], "")}
    return [without_empty(each) for each in value] if isinstance(value, list) else value


def test_pod_templates_keep_what_the_schema_does_not_know(server: Any, kubernetes: Kubernetes) -> None:
    body = changed("EnvironmentPool", "spec.template.spec", {"nodeSelector": {"disk": "fast"}, "hostUsers": False})
    kubernetes.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(body))
    stored = yaml.safe_load(kubernetes.kubectl("get", "envpool", "sample", "-o", "yaml"))
    assert stored["spec"]["template"]["spec"] == {"nodeSelector": {"disk": "fast"}, "hostUsers": False}


@pytest.mark.parametrize("plural", ["environmentpools", "rolloutfleets"])
def test_scale_pins_the_number(server: Any, kubernetes: Kubernetes, plural: str) -> None:
    (kind,) = [kind for kind in KINDS if kind.resource.plural == plural]
    kubernetes.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(SAMPLES[kind.__name__]))
    kubernetes.kubectl("scale", plural, "sample", "--replicas=7")
    assert kubernetes.kubectl("get", plural, "sample", "-o", "jsonpath={.spec.replicas}") == "7"


def test_explain_knows_the_fields(server: Any, kubernetes: Kubernetes) -> None:
    assert "Longest context, in tokens." in kubernetes.kubectl("explain", "rljob.spec.model.maxModelLen")
