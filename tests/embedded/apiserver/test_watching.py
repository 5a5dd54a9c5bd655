"""Watches and restarts, as Shoal's own client sees them."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from shoal.kube.client import KubeClient
from shoal.kube.errors import ConflictError, NotFoundError
from shoal.kube.kubeconfig import kubeconfig_source
from shoal.kube.resources import PODS, RL_JOBS, SECRETS
from shoal.kube.watch import EventType
from shoal_embedded.apiserver import storage as storage_module
from shoal_embedded.apiserver.errors import StatusError
from shoal_embedded.apiserver.storage import Storage
from shoal_embedded.apiserver.watching import QUEUED
from tests.api.samples import JOB
from tests.embedded.apiserver.conftest import Embedded


@pytest.fixture
async def client(embedded: Embedded) -> AsyncIterator[KubeClient]:
    async with KubeClient(kubeconfig_source(embedded.kubeconfig)) as client:
        yield client


def pod(name: str, **metadata: object) -> dict[str, object]:
    return {"metadata": {"name": name, **metadata}, "spec": {"containers": [{"name": "main", "image": "x"}]}}


async def events(client: KubeClient, namespace: str, since: str, count: int, **query: str) -> list[tuple[str, str]]:
    """The next events (type, name) of pods."""
    found: list[tuple[str, str]] = []
    async with aclosing(client.watch(PODS, namespace, resource_version=since, timeout=20, **query)) as watch:
        async for event in watch:
            if event.type is not EventType.BOOKMARK:
                found.append((event.type.value, event.object["metadata"]["name"]))
            if len(found) == count:
                break
    return found


async def test_lists_in_pages_of_one_version(embedded: Embedded, client: KubeClient) -> None:
    namespace = embedded.namespace()
    for index in range(5):
        await client.create(PODS, pod(f"p{index}"), namespace)
    names: list[str] = []
    versions = set()
    async for page in client.pages(PODS, namespace, limit=2):
        names += [each["metadata"]["name"] for each in page.items]
        versions.add(page.resource_version)
        await client.create(PODS, pod(f"z{len(names)}"), namespace)
    assert (names, len(versions)) == ([f"p{index}" for index in range(5)], 1)


async def test_a_selection_says_deleted_of_what_leaves_it(embedded: Embedded, client: KubeClient) -> None:
    namespace = embedded.namespace()
    since = (await client.list(PODS, namespace)).resource_version
    seen = asyncio.create_task(events(client, namespace, since, 3, labels="a=b"))
    await client.create(PODS, pod("in", labels={"a": "b"}), namespace)
    await client.create(PODS, pod("out"), namespace)
    await client.patch(PODS, "out", {"metadata": {"labels": {"a": "b"}}}, namespace)
    await client.patch(PODS, "in", {"metadata": {"labels": {"a": None}}}, namespace)
    assert await seen == [("ADDED", "in"), ("ADDED", "out"), ("DELETED", "in")]


async def test_goes_on_after_a_kill(embedded: Embedded, client: KubeClient) -> None:
    namespace = embedded.namespace()
    since = (await client.list(PODS, namespace)).resource_version
    await client.create(PODS, pod("first"), namespace)
    await client.create(PODS, pod("second"), namespace)
    await client.delete(PODS, "first", namespace)
    embedded.end(signal.SIGKILL)
    embedded.start()
    assert await events(client, namespace, since, 3) == [("ADDED", "first"), ("ADDED", "second"), ("DELETED", "first")]
    assert [each["metadata"]["name"] for each in (await client.list(PODS, namespace)).items] == ["second"]
    assert (await client.get_path("/apis/rl.shoal.dev/v1alpha1"))["resources"]


async def test_a_watch_that_is_far_behind_gets_everything(embedded: Embedded, client: KubeClient) -> None:
    namespace = embedded.namespace()
    since = (await client.list(PODS, namespace)).resource_version
    await client.create(PODS, pod("p"), namespace)
    changes = QUEUED + 100

    async def change(start: int) -> None:
        for index in range(start, changes, 8):
            await client.patch(PODS, "p", {"metadata": {"annotations": {"n": str(index)}}}, namespace)

    await asyncio.gather(*(change(start) for start in range(8)))
    assert len(await events(client, namespace, since, changes + 1)) == changes + 1


async def test_a_pod_on_a_node_waits_for_the_node(embedded: Embedded, client: KubeClient) -> None:
    namespace = embedded.namespace()
    created = await client.create(PODS, pod("p"), namespace)
    await client.patch(PODS, "p", {"spec": {"nodeName": "n"}}, namespace)
    with pytest.raises(ConflictError):
        await client.delete(PODS, "p", namespace, uid="of-another")
    uid = created["metadata"]["uid"]
    await client.delete(PODS, "p", namespace, uid=uid)
    marked = await client.get(PODS, "p", namespace)
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 30
    await client.delete(PODS, "p", namespace, uid=uid, grace_seconds=0)
    with pytest.raises(NotFoundError):
        await client.get(PODS, "p", namespace)


async def test_what_has_two_owners_goes_with_the_second(embedded: Embedded, client: KubeClient) -> None:
    namespace = embedded.namespace()
    owners = [await client.create(SECRETS, {"metadata": {"name": f"o{index}"}}, namespace) for index in range(2)]
    references = [
        {"apiVersion": "v1", "kind": "Secret", "name": each["metadata"]["name"], "uid": each["metadata"]["uid"]}
        for each in owners
    ]
    await client.create(PODS, pod("p", ownerReferences=references), namespace)
    await client.delete(SECRETS, "o0", namespace)
    assert await client.get(PODS, "p", namespace)
    await client.delete(SECRETS, "o1", namespace)
    with pytest.raises(NotFoundError):
        await client.get(PODS, "p", namespace)


async def test_only_a_changed_spec_is_a_new_generation(embedded: Embedded, client: KubeClient) -> None:
    namespace, name = embedded.namespace(), JOB["metadata"]["name"]
    first = await client.apply(RL_JOBS, JOB, namespace)
    again = await client.apply(RL_JOBS, JOB, namespace)
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    await client.patch_status(RL_JOBS, name, {"observedGeneration": 1}, namespace)
    await client.patch(RL_JOBS, name, {"metadata": {"labels": {"a": "b"}}}, namespace)
    assert (await client.get(RL_JOBS, name, namespace))["metadata"]["generation"] == 1
    await client.patch(RL_JOBS, name, {"spec": {"suspend": True}}, namespace)
    assert (await client.get(RL_JOBS, name, namespace))["metadata"]["generation"] == 2


def test_says_gone_of_what_it_has_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "HISTORY", 10)
    monkeypatch.setattr(storage_module, "TRIMMED_EVERY", 5)
    storage = Storage(tmp_path / "objects.sqlite")
    for _ in range(30):
        storage.put("secrets", {"kind": "Secret", "metadata": {"name": "s"}})
    newest = storage.version
    storage.close()
    storage = Storage(tmp_path / "objects.sqlite")
    assert storage.version == newest
    assert [change.version for change in storage.since("secrets", newest - 3)] == [newest - 2, newest - 1, newest]
    with pytest.raises(StatusError) as refusal:
        storage.since("secrets", newest - 20)
    assert (refusal.value.code, refusal.value.reason) == (410, "Expired")
    storage.close()
