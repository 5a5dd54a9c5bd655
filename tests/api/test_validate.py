"""Offline validation agrees with the API server on every case that needs no older object."""

from typing import Any

import pytest

from shoal.api.validate import validate_manifest
from tests.api.samples import JOB, SAMPLES, changed
from tests.crdgen.cases import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.path}-{case.refusal[:20]}")
def test_refuses_what_the_api_server_refuses(case: Case) -> None:
    problems = validate_manifest(case.body)
    assert bool(problems) == bool(case.refusal), problems


def test_names_the_field_and_the_reason() -> None:
    (problem,) = validate_manifest(changed("RLJob", "spec.environments.0.name", "Has Spaces"))
    assert problem.path == "spec.environments[0].name"
    assert "Has Spaces" in problem.message
    (problem,) = validate_manifest(changed("RLJob", "spec.trainer.step", 5))
    assert (problem.path, problem.message) == ("spec.trainer.step", "unknown field")
    (problem,) = validate_manifest(changed("EnvironmentPool", "spec.scale", {"min": 3, "max": 2}))
    assert (problem.path, problem.message) == ("spec.scale", "min must not be above max")
    problems = validate_manifest(changed("RLJob", "spec.agents", {"sampling": {"temperature": "0", "topP": "2"}}))
    assert [problem.path for problem in problems] == [
        "spec.agents.sampling.temperature",
        "spec.agents.sampling.topP",
    ]


@pytest.mark.parametrize("kind", SAMPLES)
def test_takes_the_samples(kind: str) -> None:
    assert validate_manifest(SAMPLES[kind]) == []


def test_knows_kind_and_version() -> None:
    assert validate_manifest({**JOB, "kind": "RLJobs"})[0].path == "kind"
    assert validate_manifest({**JOB, "apiVersion": "rl.shoal.dev/v1"})[0].path == "apiVersion"
    assert validate_manifest({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}) == []


@pytest.mark.parametrize(
    ("metadata", "path"),
    [
        ({"name": "Bad_Name"}, "metadata.name"),
        ({"name": None}, "metadata.name"),
        ({"name": "x", "namespase": "y"}, "metadata.namespase"),
        ({"name": "x", "labels": {"a": [1]}}, "metadata.labels.a"),
        ({"name": "x", "annotations": "none"}, "metadata.annotations"),
        (3, "metadata"),
    ],
)
def test_names_what_is_wrong_with_metadata(metadata: object, path: str) -> None:
    assert [problem.path for problem in validate_manifest({**JOB, "metadata": metadata})] == [path]


def environment_pool(protocol: str, config: dict[str, Any], **spec: Any) -> dict[str, Any]:
    environment = {"protocol": protocol, "entrypoint": "x:y", "config": config}
    return {
        "apiVersion": "rl.shoal.dev/v1alpha1",
        "kind": "EnvironmentPool",
        "metadata": {"name": "pool"},
        "spec": {"environment": environment, **spec},
    }


@pytest.mark.parametrize(
    ("protocol", "config", "path", "words"),
    [
        ("Gymnasium", {"actoins": {"up": 1}}, "actoins", "is no field; there are: actionPattern, actionPick, actions"),
        ("Gymnasium", {"observation": {"templat": "x"}}, "observation.templat", "attributes, first, images"),
        ("Gymnasium", {"maxEpisodeSteps": 0}, "maxEpisodeSteps", "greater than or equal to 1"),
        ("TextArena", {"invalidAction": {"rewrad": 1}}, "invalidAction.rewrad", "reward, terminated, text"),
        ("OpenEnv", {"actionField": 3}, "actionField", "valid string"),
    ],
)
def test_a_wrong_configuration_of_an_environment_is_named(
    protocol: str, config: dict[str, Any], path: str, words: str
) -> None:
    (problem,) = validate_manifest(environment_pool(protocol, config))
    assert problem.path == f"spec.environment.config.{path}"
    assert words in problem.message


def test_an_own_protocols_configuration_is_its_own_affair() -> None:
    assert validate_manifest(environment_pool("package:Doors", {"anything": 1})) == []
    assert validate_manifest(environment_pool("Gymnasum", {})) != []


def test_a_variants_configuration_is_checked_over_the_pools() -> None:
    variants = [{"name": "a", "config": {"kwargs": {}}}, {"name": "b", "config": {"kwargz": {}}}]
    (problem,) = validate_manifest(environment_pool("Gymnasium", {"actions": {"up": 1}}, variants=variants))
    assert problem.path == "spec.variants[1].config.kwargz"


def test_a_spec_that_no_api_server_stores_is_refused_with_its_size() -> None:
    tasks = [{"prompt": "p" * 2000} for _ in range(800)]
    (problem,) = validate_manifest(changed("RLJob", "spec.data", {"tasks": {"inline": tasks}}))
    assert problem.path == "spec"
    assert "1,400,000" in problem.message
    assert validate_manifest(changed("RLJob", "spec.data", {"tasks": {"inline": tasks[:600]}})) == []
