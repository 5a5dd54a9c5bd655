"""What the served definitions lack of the models: nothing where they are ours, and each thing that is taken away."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from shoal.api.v1alpha1 import KINDS, EnvironmentPool
from shoal.controllers.definitions import Lack, find_lack, lacking
from shoal.controllers.review import Places, find_gaps
from shoal.crdgen import generate
from shoal.kube.client import KubeClient
from shoal.kube.kubeconfig import kubeconfig_source
from shoal.kube.resources import CUSTOM_RESOURCE_DEFINITIONS
from shoal.neighbours.registry import ALL_RULES
from tests.embedded.apiserver.conftest import Embedded

Json = dict[str, Any]
MODELS = {kind.resource.plural: kind for kind in KINDS}


def schema_of(index: int) -> Json:
    body = deepcopy(generate.definitions()[index])
    schema: Json = body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


@pytest.mark.parametrize("index", range(len(KINDS)))
def test_a_model_and_its_own_definition_agree(index: int) -> None:
    assert lacking(KINDS[index], schema_of(index)) == []


def fields(schema: Json, path: str = "") -> Iterator[tuple[Json, str, str]]:
    """Every field below a schema: the mapping it stands in, its name and its path."""
    for name, each in (schema.get("properties") or {}).items():
        yield schema["properties"], name, f"{path}.{name}"
        yield from fields(each, f"{path}.{name}")
    for name, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(schema.get(name), dict):
            yield from fields(schema[name], path + mark)


@pytest.mark.parametrize("index", range(len(KINDS)))
def test_each_field_that_is_taken_away_is_named(index: int) -> None:
    for top in ("spec", "status"):
        paths = [path for _, _, path in fields(schema_of(index)["properties"][top], top)]
        for path in paths[:: max(1, len(paths) // 12)]:  # of a job's hundreds every so many
            schema = schema_of(index)
            home, name = next((h, n) for h, n, p in fields(schema["properties"][top], top) if p == path)
            del home[name]
            assert lacking(KINDS[index], schema) == [path]


def test_a_value_that_is_not_known_is_named() -> None:
    schema = schema_of(0)
    schema["properties"]["spec"]["properties"]["backend"]["enum"].remove("AgentSandbox")
    assert lacking(EnvironmentPool, schema) == ["spec.backend=AgentSandbox"]


def test_a_newer_definition_lacks_nothing() -> None:
    schema = schema_of(0)
    schema["properties"]["spec"]["properties"]["later"] = {"type": "string"}
    assert lacking(EnvironmentPool, schema) == []


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Embedded]:
    server = Embedded(tmp_path)
    server.start()
    yield server
    server.end()


async def test_the_embedded_server_lacks_nothing(embedded: Embedded) -> None:
    async with KubeClient(kubeconfig_source(embedded.kubeconfig)) as client:
        assert await find_lack(client, MODELS) == Lack(frozenset(MODELS))
        for definition in generate.definitions():
            await client.create(CUSTOM_RESOURCE_DEFINITIONS, definition)
        assert await find_lack(client, MODELS) == Lack()
        assert await find_gaps(client, ALL_RULES, Places("", "default")) == []
