"""An asynchronous client of the Kubernetes API: the few verbs an operator needs, with typed errors and retries."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, Self

import aiohttp
import orjson

from shoal.kube.credentials import CredentialsSource
from shoal.kube.errors import GoneError, UnavailableError
from shoal.kube.paging import read_pages
from shoal.kube.resources import PODS, Json, Resource
from shoal.kube.retry import RetryPolicy
from shoal.kube.transport import Call, Observer, Transport
from shoal.kube.watch import WatchEvent, decode_event, split_lines

FIELD_MANAGER = "shoal-operator"
PAGE = 500
"""Objects per page of a list: the size client-go uses; a whole list of 10,000 pods would be 100 MB of JSON at once."""

Operations = list[Json]
"""A JSON patch."""

Propagation = Literal["Foreground", "Background", "Orphan"]

_PATCH_TYPES = {"merge": "application/merge-patch+json", "json": "application/json-patch+json"}
_APPLY_TYPE = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class Page:
    """Objects of a list. `token` continues it; empty on the last page."""

    items: list[Json]
    resource_version: str
    token: str = ""


class KubeClient:
    """Talks to one API server with the credentials of a source. Use as an async context manager or call `close`."""

    def __init__(
        self,
        source: CredentialsSource,
        *,
        field_manager: str = FIELD_MANAGER,
        timeout: float = 30.0,
        retry: RetryPolicy | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._transport = Transport(source, timeout=timeout, retry=retry or RetryPolicy())
        self._transport.observer = observer
        self._field_manager = field_manager

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    def observe(self, observer: Observer) -> None:
        """Have `observer` called after each request (metrics)."""
        self._transport.observer = observer

    def fence(self, check: Callable[[str], None]) -> None:
        """Have `check` called with the resource of each write just before it is sent, again before each retry.

        What it raises ends the call.
        """
        self._transport.fence = check

    # --- reading

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Json:
        """Return one object; raises `NotFoundError`."""
        return await self._transport.json(
            Call("get", "GET", str(resource), resource.path(namespace, name), {}, safe=True)
        )

    async def get_path(self, path: str) -> Json:
        """Return the JSON at an absolute path such as `/version` or `/apis/rl.shoal.dev/v1alpha1`."""
        return await self._transport.json(Call("get", "GET", "path", path, {}, safe=True))

    async def pages(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
        limit: int = PAGE,
        resource_version: str | None = None,
    ) -> AsyncIterator[Page]:
        """List page by page. Raises `GoneError` when the list is too old to be continued: begin again.

        `limit` 0 asks for everything at once. `resource_version` "0" lets the server answer from its cache.
        """
        query = _selectors(labels, fields)
        if resource_version is not None:
            query |= {"resourceVersion": resource_version, "resourceVersionMatch": "NotOlderThan"}
        if limit:
            query["limit"] = str(limit)
        first = Call("list", "GET", str(resource), resource.path(namespace), query, safe=True)
        following = {**_selectors(labels, fields), "limit": str(limit)}
        async with aclosing(read_pages(self._transport, first, following)) as bodies:
            async for body in bodies:
                meta = body.get("metadata") or {}
                token = str(meta.get("continue") or "")
                yield Page(body.get("items") or [], str(meta.get("resourceVersion", "")), token)

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
        limit: int = PAGE,
    ) -> Page:
        """List everything, in pages underneath; a list that grows too old meanwhile is read again in one piece."""
        items: list[Json] = []
        version = ""
        try:
            async for page in self.pages(resource, namespace, labels=labels, fields=fields, limit=limit):
                items += page.items
                version = page.resource_version
        except GoneError:
            if not limit:
                raise
            return await self.list(resource, namespace, labels=labels, fields=fields, limit=0)
        return Page(items, version)

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        labels: str | None = None,
        fields: str | None = None,
        timeout: float = 290.0,
        idle_timeout: float | None = 90.0,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Yield events after `resource_version` until the server ends the watch (after `timeout` seconds at most).

        Raises the typed error of an ERROR event or of a refusal, and `UnavailableError` when the connection breaks or
        stays silent for `idle_timeout` seconds (the server sends a bookmark each minute, so silence is a dead peer).
        """
        query = _selectors(labels, fields) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(max(1, int(timeout))),
        }
        call = Call("watch", "GET", str(resource), resource.path(namespace), query, safe=True)
        limits = aiohttp.ClientTimeout(total=timeout + 30.0, connect=10.0, sock_read=idle_timeout)
        async with self._transport.open(call, limits, watch=True) as response:
            try:
                async for line in split_lines(response.content.iter_any()):
                    yield decode_event(line)
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                raise UnavailableError(f"{call}: {type(error).__name__}: {error}") from error

    async def logs(
        self,
        namespace: str,
        pod: str,
        *,
        container: str | None = None,
        tail_lines: int | None = None,
        previous: bool = False,
    ) -> str:
        """Return a container's log as text (`previous`: of the run before the last restart)."""
        call = _logs_call(namespace, pod, container, tail_lines, previous=previous, follow=False)
        return (await self._transport.read(call)).decode(errors="replace")

    async def follow_logs(
        self, namespace: str, pod: str, *, container: str | None = None, tail_lines: int | None = None
    ) -> AsyncIterator[str]:
        """Yield the lines of a container's log, old and new, until it ends."""
        call = _logs_call(namespace, pod, container, tail_lines, previous=False, follow=True)
        async with self._transport.open(call, aiohttp.ClientTimeout(total=None, connect=10.0), watch=True) as response:
            try:
                async for line in split_lines(response.content.iter_any()):
                    yield line.decode(errors="replace")
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                raise UnavailableError(f"{call}: {error}") from error

    # --- writing

    async def create(self, resource: Resource, body: Json, namespace: str | None = None) -> Json:
        """Create an object. Raises `AlreadyExistsError`. Not repeated after a broken answer: it may have been done."""
        query = {"fieldManager": self._field_manager}
        return await self._transport.json(
            Call("create", "POST", str(resource), resource.path(namespace), query, orjson.dumps(body))
        )

    async def apply(
        self,
        resource: Resource,
        body: Json,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
        manager: str = "",
        force: bool = True,
    ) -> Json:
        """Server-side apply with this client's field manager, or with another one.

        With `force` it takes over fields of others; without, raises `ConflictError` where somebody else has one.
        """
        complete = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        path = resource.path(namespace, str(body["metadata"]["name"]), subresource)
        query = {"fieldManager": manager or self._field_manager, "force": str(force).lower()}
        return await self._transport.json(
            Call("apply", "PATCH", str(resource), path, query, orjson.dumps(complete), _APPLY_TYPE, safe=True)
        )

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Json | Operations,
        namespace: str | None = None,
        *,
        kind: Literal["merge", "json"] = "merge",
        subresource: str | None = None,
    ) -> Json:
        """Patch an object: a merge patch (a mapping) or a JSON patch (a list of operations).

        Put `metadata.resourceVersion` into a merge patch to have it fail with `ConflictError` when the object changed.
        """
        path = resource.path(namespace, name, subresource)
        query = {"fieldManager": self._field_manager}
        call = Call(
            "patch", "PATCH", str(resource), path, query, orjson.dumps(patch), _PATCH_TYPES[kind], safe=kind == "merge"
        )
        return await self._transport.json(call)

    async def patch_status(
        self,
        resource: Resource,
        name: str,
        status: Json,
        namespace: str | None = None,
        *,
        resource_version: str | None = None,
    ) -> Json:
        """Merge `status` into the object's status (lists are replaced whole), optionally only at one version."""
        body: Json = {"status": status}
        if resource_version is not None:
            body["metadata"] = {"resourceVersion": resource_version}
        return await self.patch(resource, name, body, namespace, subresource="status")

    async def replace(self, resource: Resource, body: Json, namespace: str | None = None) -> Json:
        """Write a whole object; with `metadata.resourceVersion` in it, only over exactly that version."""
        path = resource.path(namespace, str(body["metadata"]["name"]))
        query = {"fieldManager": self._field_manager}
        return await self._transport.json(Call("update", "PUT", str(resource), path, query, orjson.dumps(body)))

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: Propagation | None = "Background",
        grace_seconds: int | None = None,
    ) -> Json:
        """Delete an object, with `uid` / `resource_version` only if it is still that one (else `ConflictError`).

        Raises `NotFoundError` when it is gone already. Always pass the UID of an object known from a cache: the name
        may belong to a younger one by now.
        """
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        options: Json = {
            "preconditions": {key: value for key, value in preconditions.items() if value} or None,
            "propagationPolicy": propagation,
            "gracePeriodSeconds": grace_seconds,
        }
        body = orjson.dumps({key: value for key, value in options.items() if value is not None})
        path = resource.path(namespace, name)
        return await self._transport.json(Call("delete", "DELETE", str(resource), path, {}, body, safe=True))


def _selectors(labels: str | None, fields: str | None) -> dict[str, str]:
    given = {"labelSelector": labels, "fieldSelector": fields}
    return {key: value for key, value in given.items() if value}


def _logs_call(
    namespace: str, pod: str, container: str | None, tail_lines: int | None, *, previous: bool, follow: bool
) -> Call:
    query: dict[str, Any] = {
        "container": container,
        "tailLines": None if tail_lines is None else str(tail_lines),
        "previous": "true" if previous else None,
        "follow": "true" if follow else None,
    }
    given = {key: value for key, value in query.items() if value is not None}
    return Call("logs", "GET", "pods", PODS.path(namespace, pod, "log"), given, safe=True)
