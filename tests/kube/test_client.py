"""The client against a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from shoal.kube import (
    AlreadyExistsError,
    ConflictError,
    EventType,
    InvalidError,
    KubeClient,
    NotFoundError,
    UnauthorizedError,
    kubeconfig_source,
)
from shoal.kube.credentials import Credentials, StaticSource
from shoal.kube.resources import CONFIG_MAPS, NAMESPACES, PODS
from tests.kubernetes import Kubernetes


@pytest.fixture
async def client(kubernetes: Kubernetes) -> AsyncIterator[KubeClient]:
    async with KubeClient(kubeconfig_source(kubernetes.kubeconfig)) as client:
        yield client


def config_map(name: str, **data: str) -> dict[str, object]:
    return {"metadata": {"name": name, "labels": {"app": "test"}}, "data": data}


async def test_create_get_patch_and_delete(client: KubeClient, kubernetes: Kubernetes) -> None:
    namespace = kubernetes.namespace
    created = await client.create(CONFIG_MAPS, config_map("one", a="1"), namespace)
    assert (await client.get(CONFIG_MAPS, "one", namespace))["data"] == {"a": "1"}
    patched = await client.patch(CONFIG_MAPS, "one", {"data": {"b": "2"}}, namespace)
    assert patched["data"] == {"a": "1", "b": "2"}
    operations = [{"op": "remove", "path": "/data/a"}]
    assert (await client.patch(CONFIG_MAPS, "one", operations, namespace, kind="json"))["data"] == {"b": "2"}
    await client.delete(CONFIG_MAPS, "one", namespace, uid=created["metadata"]["uid"])
    with pytest.raises(NotFoundError):
        await client.get(CONFIG_MAPS, "one", namespace)


async def test_create_refuses_a_taken_name(client: KubeClient, kubernetes: Kubernetes) -> None:
    await client.create(CONFIG_MAPS, config_map("one"), kubernetes.namespace)
    with pytest.raises(AlreadyExistsError):
        await client.create(CONFIG_MAPS, config_map("one"), kubernetes.namespace)


async def test_apply_creates_and_owns_its_fields_alone(client: KubeClient, kubernetes: Kubernetes) -> None:
    namespace = kubernetes.namespace
    await client.apply(CONFIG_MAPS, config_map("one", a="1", b="2"), namespace)
    kubernetes.kubectl("patch", "configmap", "one", "-p", '{"data": {"theirs": "x"}}')
    applied = await client.apply(CONFIG_MAPS, config_map("one", a="3"), namespace)
    assert applied["data"] == {"a": "3", "theirs": "x"}
    assert {field["manager"] for field in applied["metadata"]["managedFields"]} >= {"shoal-operator"}


async def test_a_patch_at_a_version_loses_against_an_earlier_write(client: KubeClient, kubernetes: Kubernetes) -> None:
    namespace = kubernetes.namespace
    first = await client.create(CONFIG_MAPS, config_map("one"), namespace)
    version = first["metadata"]["resourceVersion"]
    await client.patch(CONFIG_MAPS, "one", {"data": {"a": "1"}}, namespace)
    with pytest.raises(ConflictError):
        await client.patch(CONFIG_MAPS, "one", {"metadata": {"resourceVersion": version}, "data": {}}, namespace)


async def test_delete_spares_a_younger_object_of_the_same_name(client: KubeClient, kubernetes: Kubernetes) -> None:
    await client.create(CONFIG_MAPS, config_map("one"), kubernetes.namespace)
    with pytest.raises(ConflictError):
        await client.delete(CONFIG_MAPS, "one", kubernetes.namespace, uid="3e4c7d6a-0000-0000-0000-000000000000")
    assert await client.get(CONFIG_MAPS, "one", kubernetes.namespace)


async def test_a_refusal_names_the_field(client: KubeClient, kubernetes: Kubernetes) -> None:
    pod = {"metadata": {"name": "one"}, "spec": {"containers": [{"name": "UPPER", "image": "x"}]}}
    with pytest.raises(InvalidError) as caught:
        await client.create(PODS, pod, kubernetes.namespace)
    assert "spec.containers[0].name" in [cause.field for cause in caught.value.causes]


async def test_status_is_patched_through_its_subresource(client: KubeClient, kubernetes: Kubernetes) -> None:
    pod = {"metadata": {"name": "one"}, "spec": {"containers": [{"name": "main", "image": "x"}]}}
    await client.create(PODS, pod, kubernetes.namespace)
    await client.patch_status(PODS, "one", {"phase": "Running"}, kubernetes.namespace)
    assert (await client.get(PODS, "one", kubernetes.namespace))["status"]["phase"] == "Running"


async def test_list_reads_all_pages(client: KubeClient, kubernetes: Kubernetes) -> None:
    for index in range(7):
        await client.create(CONFIG_MAPS, config_map(f"m{index}"), kubernetes.namespace)
    listed = await client.list(CONFIG_MAPS, kubernetes.namespace, labels="app=test", limit=3)
    assert sorted(item["metadata"]["name"] for item in listed.items) == [f"m{index}" for index in range(7)]
    assert listed.resource_version


async def test_watch_tells_what_happened_after_the_list(client: KubeClient, kubernetes: Kubernetes) -> None:
    namespace = kubernetes.namespace
    version = (await client.list(CONFIG_MAPS, namespace)).resource_version
    await client.create(CONFIG_MAPS, config_map("one"), namespace)
    await client.patch(CONFIG_MAPS, "one", {"data": {"a": "1"}}, namespace)
    await client.delete(CONFIG_MAPS, "one", namespace)
    seen = [
        (event.type, event.object["metadata"]["name"])
        async for event in client.watch(CONFIG_MAPS, namespace, resource_version=version, timeout=1, labels="app=test")
        if event.type is not EventType.BOOKMARK
    ]
    assert seen == [(EventType.ADDED, "one"), (EventType.MODIFIED, "one"), (EventType.DELETED, "one")]


async def test_a_wrong_token_is_unauthorized(kubernetes: Kubernetes) -> None:
    credentials = Credentials(server=kubernetes.url, ca=kubernetes.certificate.read_text(), token="wrong")
    async with KubeClient(StaticSource(credentials)) as client:
        with pytest.raises(UnauthorizedError):
            await client.list(NAMESPACES)


async def test_requests_in_parallel(client: KubeClient, kubernetes: Kubernetes) -> None:
    names = [f"p{index}" for index in range(50)]
    await asyncio.gather(*(client.create(CONFIG_MAPS, config_map(name), kubernetes.namespace) for name in names))
    listed = await client.list(CONFIG_MAPS, kubernetes.namespace, labels="app=test")
    assert len(listed.items) == 50
