"""Shoal's resources on the embedded API server: the same cases that the real one accepts and refuses."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal.api.v1alpha1 import KINDS
from tests.api.samples import SAMPLES, changed
from tests.crdgen.cases import CASES, CHANGES, Case, Change
from tests.crdgen.test_api_server import without_empty
from tests.embedded.apiserver.conftest import Embedded

APPLY = "application/apply-patch+yaml"
QUERY = "?fieldManager=test&fieldValidation=Strict"


def path(kind: str, namespace: str, name: str = "") -> str:
    plural = next(each.resource.plural for each in KINDS if each.__name__ == kind)
    return f"/apis/rl.shoal.dev/v1alpha1/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")


def apply(embedded: Embedded, namespace: str, body: dict[str, Any], *, dry: bool = True) -> tuple[int, Any]:
    query = QUERY + ("&dryRun=All" if dry else "")
    where = path(body["kind"], namespace, body["metadata"]["name"])
    return embedded.call("PATCH", where + query, body, APPLY)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.path}-{case.refusal[:20]}")
def test_accepts_and_refuses_as_the_real_one(embedded: Embedded, case: Case) -> None:
    status, answer = apply(embedded, "default", case.body)
    if not case.refusal:
        assert status in (200, 201), answer
    elif "duplicate entries" in case.refusal:
        assert "Duplicate value" in answer["message"]
    else:
        assert case.refusal in answer["message"], answer


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.refusal)
def test_keeps_what_is_immutable(embedded: Embedded, change: Change) -> None:
    namespace = embedded.namespace()
    assert apply(embedded, namespace, SAMPLES[change.kind], dry=False)[0] == 201
    assert apply(embedded, namespace, changed(change.kind, change.allowed_path, change.allowed_value))[0] == 200
    status, answer = apply(embedded, namespace, changed(change.kind, change.path, change.value))
    assert (status, change.refusal in answer["message"]) == (422, True)
    assert answer["details"]["causes"][0]["field"].startswith("spec")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_defaults_as_the_models_do(embedded: Embedded, kind: Any) -> None:
    sample = SAMPLES[kind.__name__]
    status, stored = apply(embedded, embedded.namespace(), sample, dry=False)
    assert status == 201
    spec = kind.model_fields["spec"].annotation
    assert without_empty(stored["spec"]) == without_empty(spec.model_validate(sample["spec"]).to_json())


def test_kubectl_does_what_a_person_does(embedded: Embedded) -> None:
    namespace = embedded.namespace()
    kubectl = ["--namespace", namespace]
    pool = yaml.safe_dump(SAMPLES["EnvironmentPool"])
    assert "created" in embedded.kubectl(*kubectl, "apply", "-f", "-", stdin=pool)
    assert "unchanged" in embedded.kubectl(*kubectl, "apply", "-f", "-", stdin=pool)
    embedded.kubectl(*kubectl, "scale", "envpool", "sample", "--replicas=4")
    assert embedded.kubectl(*kubectl, "get", "envpool", "sample", "-o", "jsonpath={.spec.replicas}") == "4"
    assert embedded.kubectl(*kubectl, "get", "envpool").split()[:4] == ["NAME", "DESIRED", "READY", "SLOTS"]
    embedded.kubectl(*kubectl, "label", "envpool", "sample", "team=rl")
    assert "sample" in embedded.kubectl(*kubectl, "get", "shoal", "-l", "team=rl", "-o", "name")
    embedded.kubectl(*kubectl, "annotate", "envpool", "sample", "note=here")
    embedded.kubectl(*kubectl, "patch", "envpool", "sample", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    operation = '[{"op":"replace","path":"/spec/suspend","value":false}]'
    embedded.kubectl(*kubectl, "patch", "envpool", "sample", "--type=json", "-p", operation)
    assert "Suspend:             false" in embedded.kubectl(*kubectl, "describe", "envpool", "sample")
    waited = embedded.kubectl(*kubectl, "wait", "--for=jsonpath={.spec.replicas}=4", "envpool/sample", "--timeout=5s")
    assert "condition met" in waited
    assert "Longest context, in tokens." in embedded.kubectl("explain", "rljob.spec.model.maxModelLen")
    refused = embedded.kubectl(*kubectl, "apply", "-f", "-", stdin=pool.replace("Gymnasium", "Gym"), check=False)
    assert 'spec.environment.protocol: Invalid value: "Gym"' in refused
    assert "deleted" in embedded.kubectl(*kubectl, "delete", "envpool", "sample", "--timeout=5s")
    assert "No resources found" in embedded.kubectl(*kubectl, "get", "envpool", check=False)


def test_kubectl_creates_what_it_sends_as_protobuf(embedded: Embedded) -> None:
    embedded.kubectl("create", "namespace", "by-kubectl")
    kubectl = ["--namespace", "by-kubectl"]
    embedded.kubectl(*kubectl, "create", "secret", "generic", "x", "--from-literal=key=value", "--from-literal=b=")
    assert embedded.kubectl(*kubectl, "get", "secret", "x", "-o", "jsonpath={.data.key} {.type}") == "dmFsdWU= Opaque"
    embedded.kubectl(*kubectl, "create", "configmap", "x", "--from-literal=key=value")
    assert embedded.kubectl(*kubectl, "get", "configmap", "x", "-o", "jsonpath={.data.key}") == "value"
    embedded.kubectl(*kubectl, "create", "serviceaccount", "x")
    assert embedded.kubectl(*kubectl, "auth", "can-i", "get", "pods").strip() == "yes"
    assert "deleted" in embedded.kubectl("delete", "namespace", "by-kubectl", "--timeout=5s")


def test_takes_every_example(embedded: Embedded) -> None:
    for file in sorted((Path(__file__).parents[3] / "examples").rglob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            status, answer = apply(embedded, "default", document)
            assert status == 201, (file, answer)
