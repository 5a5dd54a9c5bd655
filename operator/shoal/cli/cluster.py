"""The CLI's view of a cluster: apply, read, wait; through the same client as the operator."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.cli.errors import UserError
from shoal.kube.client import KubeClient
from shoal.kube.credentials import CredentialsError
from shoal.kube.errors import ApiError, InvalidError, NotFoundError
from shoal.kube.kubeconfig import find_source, kubeconfig_source
from shoal.kube.resources import (
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    ENVIRONMENT_POOLS,
    NAMESPACES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    RL_JOBS,
    ROLLOUT_FLEETS,
    SECRETS,
    SERVICES,
    Resource,
)
from shoal.planner.tokens import view_token

Json = dict[str, Any]

KINDS = {
    resource.kind: resource
    for resource in (
        RL_JOBS,
        ENVIRONMENT_POOLS,
        ROLLOUT_FLEETS,
        CONFIG_MAPS,
        SECRETS,
        SERVICES,
        PODS,
        NAMESPACES,
        PERSISTENT_VOLUME_CLAIMS,
        CUSTOM_RESOURCE_DEFINITIONS,
    )
}


@dataclass
class Snapshot:
    """Every resource of the three kinds in one namespace."""

    jobs: list[Json]
    pools: list[Json]
    fleets: list[Json]


class Cluster:
    """One API server, one namespace."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self.namespace = namespace

    async def apply(self, document: Json) -> Json:
        """Server-side apply of one manifest. Raises `UserError` with every field that the server refuses."""
        resource = KINDS.get(document["kind"])
        if resource is None:
            raise UserError(f"kind {document['kind']}: expected one of {', '.join(KINDS)}; use kubectl for others")
        namespace = document["metadata"].get("namespace", self.namespace) if resource.namespaced else None
        try:
            return await self._client.apply(resource, document, namespace)
        except InvalidError as error:
            raise UserError(f"{document['kind']}/{document['metadata']['name']}: {error}") from error

    async def get(self, resource: Resource, name: str) -> Json:
        """One object; raises `NotFoundError`."""
        return await self._client.get(resource, name, self.namespace)

    async def check_namespaces(self, names: set[str], *, make: bool) -> None:
        """Raise `UserError` for a namespace that is not there, or make it."""
        for name in sorted(names):
            try:
                await self._client.get(NAMESPACES, name)
            except NotFoundError as error:
                if not make:
                    way = f"name another one with -n, or `kubectl create namespace {name}`"
                    raise UserError(f"namespace {name} does not exist: {way}") from error
                await self._client.create(
                    NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                )

    async def snapshot(self) -> Snapshot:
        """Everything, sorted by name. Raises `UserError` where Shoal's definitions are not installed."""

        async def names(resource: Resource) -> list[Json]:
            page = await self._client.list(resource, self.namespace)
            return sorted(page.items, key=lambda body: str(body["metadata"]["name"]))

        try:
            return Snapshot(await names(RL_JOBS), await names(ENVIRONMENT_POOLS), await names(ROLLOUT_FLEETS))
        except NotFoundError as error:
            missing = "Shoal's CustomResourceDefinitions are not installed"
            raise UserError(f"{missing}: shoal crds | kubectl apply --server-side -f -") from error

    async def pods(self, labels: str) -> list[Json]:
        """Pods with these labels, oldest first."""
        page = await self._client.list(PODS, self.namespace, labels=labels)
        return sorted(page.items, key=lambda body: str(body["metadata"]["creationTimestamp"]))

    async def tokens(self, secret: str) -> tuple[str, ...]:
        """The bearer tokens in a Secret of Shoal's, newest first."""
        return view_token(await self._client.get(SECRETS, secret, self.namespace)).taken

    def follow(self, pod: str, tail: int | None) -> AsyncIterator[str]:
        """The pod's log, line by line, until it ends."""
        return self._client.follow_logs(self.namespace, pod, container="main", tail_lines=tail)

    async def log(self, pod: str, tail: int | None, *, previous: bool = False) -> str:
        """The pod's log so far."""
        return await self._client.logs(self.namespace, pod, container="main", tail_lines=tail, previous=previous)


@asynccontextmanager
async def connect(kubeconfig: Path | None, namespace: str) -> AsyncIterator[Cluster]:
    """A cluster by kubeconfig (default: as `find_source`). Raises `UserError` where none is or answers."""
    try:
        source = kubeconfig_source(kubeconfig) if kubeconfig else find_source()
        async with KubeClient(source, field_manager="shoal-cli") as client:
            await client.get_path("/version")
            yield Cluster(client, namespace)
    except CredentialsError as error:
        raise UserError(f"{error} (`shoal up` starts a control plane on this machine)") from error
    except ApiError as error:
        raise UserError(str(error)) from error
