"""The verbs: get, list, watch, create, update, patch, apply, delete; on objects and on their subresources."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from shoal.embedded.apiserver import bodies, patches, scale, tables
from shoal.embedded.apiserver.binding import bind
from shoal.embedded.apiserver.collector import Collector
from shoal.embedded.apiserver.errors import (
    StatusError,
    bad_request,
    gone,
    invalid,
    method_not_allowed,
    unknown_path,
    unsupported_media_type,
)
from shoal.embedded.apiserver.objects import Objects
from shoal.embedded.apiserver.paging import Pages
from shoal.embedded.apiserver.resources import CRDS, Registry, Resource
from shoal.embedded.apiserver.schema import cause
from shoal.embedded.apiserver.selectors import Predicate, both, field_predicate, label_predicate
from shoal.embedded.apiserver.storage import Storage
from shoal.embedded.apiserver.watching import Watch, Watches

Json = dict[str, Any]

BOOKMARK_SECONDS = 55.0
"""Less than the minute and a half of silence after which clients take a connection for dead."""
LONGEST_WATCH_SECONDS = 3600.0
_RETURNED_WHEN_DELETED = frozenset(
    {"pods", "services", "persistentvolumeclaims", "persistentvolumes", "serviceaccounts"}
)
"""For these the answer to a deletion is the object; for others a Status."""


@dataclass(frozen=True)
class Target:
    """What a request's path names."""

    resource: Resource
    namespace: str | None
    name: str
    subresource: str

    @property
    def home(self) -> str:
        """The namespace of a single object; empty for cluster-wide ones."""
        return self.namespace or ""


class Handlers:
    """Answers requests for resources."""

    def __init__(
        self, storage: Storage, registry: Registry, objects: Objects, watches: Watches, collector: Collector
    ) -> None:
        self._storage = storage
        self._registry = registry
        self._objects = objects
        self._watches = watches
        self._collector = collector
        self._pages = Pages()
        self.stopping = asyncio.Event()

    async def handle(self, request: web.Request, target: Target) -> web.StreamResponse:
        """Do what the method and the path ask for."""
        if not target.name:
            return await self._collection(request, target)
        if target.subresource == "scale":
            return await self._scale(request, target)
        if target.subresource == "binding" and target.resource.key == "pods" and request.method == "POST":
            body = await _object(request)
            return bodies.answer(bind(self._objects, target.resource, target.home, target.name, body), 201)
        if target.subresource not in ("", "status"):
            raise unknown_path()
        if target.subresource == "status" and "status" not in target.resource.subresources:
            raise unknown_path()
        method = request.method
        if method == "GET":
            body = self._objects.get(target.resource, target.home, target.name)
            return self._one(request, target.resource, body)
        if method == "PUT":
            return await self._put(request, target)
        if method == "PATCH":
            return await self._patch(request, target)
        if method == "DELETE" and not target.subresource:
            return await self._delete(request, target)
        raise method_not_allowed()

    # --- collections

    async def _collection(self, request: web.Request, target: Target) -> web.StreamResponse:
        if request.method == "GET":
            if bodies.flag(request, "watch"):
                return await self._watch(request, target)
            return self._list(request, target)
        if request.method == "POST":
            body = await _object(request)
            namespace = target.namespace or (body.get("metadata") or {}).get("namespace", "default")
            home = namespace if target.resource.namespaced else ""
            _check_kind(target.resource, body)
            options = {"strict": _strict(request), "dry": "dryRun" in request.query}
            created = self._objects.create(target.resource, home, body, **options)
            self._after(target.resource, created)
            return self._one(request, target.resource, created, 201)
        if request.method == "DELETE":
            options = await bodies.read(request) or {}
            deleted = []
            for body in self._selected(request, target):
                where = body["metadata"].get("namespace", "")
                deleted.append(self._objects.delete(target.resource, where, body["metadata"]["name"], options))
            self._collector.sweep()
            head = {"kind": f"{target.resource.kind}List", "apiVersion": target.resource.api_version}
            metadata = {"resourceVersion": str(self._storage.version)}
            return bodies.answer({**head, "metadata": metadata, "items": deleted})
        raise method_not_allowed()

    def _selected(self, request: web.Request, target: Target) -> list[Json]:
        wanted = _predicate(request, target.resource)
        resource = target.resource
        found = self._storage.objects(resource.key, target.namespace if resource.namespaced else None)
        return [body for body in found if wanted(body)]

    def _list(self, request: web.Request, target: Target) -> web.StreamResponse:
        asked = request.query.get("limit") or "0"
        if not asked.isdigit():
            raise bad_request(f"limit: Invalid value: {asked!r}: expected a number")
        limit = int(asked)
        token = request.query.get("continue", "")
        if token:
            items, version = self._pages.resume(token)
        else:
            items, version = self._selected(request, target), str(self._storage.version)
        metadata: Json = {"resourceVersion": version}
        if limit and len(items) > limit:
            metadata |= {"continue": self._pages.keep(items[limit:], version), "remainingItemCount": len(items) - limit}
            items = items[:limit]
        resource = target.resource
        if bodies.wants_table(request):
            whole = request.query.get("includeObject") == "Object"
            return bodies.answer(tables.table(resource, items, metadata, whole=whole))
        head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": metadata}
        return bodies.answer({**head, "items": items})

    async def _watch(self, request: web.Request, target: Target) -> web.StreamResponse:
        resource = target.resource
        watch = Watch(resource, target.namespace if resource.namespaced else None, _predicate(request, target.resource))
        asked = request.query.get("resourceVersion", "")
        if asked in ("", "0"):
            for body in self._selected(request, target):
                watch.queue.put_nowait(("ADDED", body))
        else:
            if not asked.isdigit():
                raise bad_request(f"invalid resource version {asked!r}")
            if int(asked) > self._storage.version:
                raise gone(f"too large resource version: {asked}, current: {self._storage.version}")
            for change in self._storage.since(resource.key, int(asked)):
                watch.offer(change)
        self._watches.open(watch)
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache"})
        response.enable_chunked_encoding()
        try:
            await response.prepare(request)
            await self._stream(request, response, watch)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._watches.close(watch)
        return response

    async def _stream(self, request: web.Request, response: web.StreamResponse, watch: Watch) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + float(request.query.get("timeoutSeconds") or LONGEST_WATCH_SECONDS)
        bookmarks, as_table = bodies.flag(request, "allowWatchBookmarks"), bodies.wants_table(request)
        while (left := end - loop.time()) > 0:
            try:
                async with asyncio.timeout(min(left, BOOKMARK_SECONDS)):
                    event = await watch.queue.get()
            except TimeoutError:
                if bookmarks:
                    await response.write(_line("BOOKMARK", self._bookmark(watch.resource)))
                continue
            lines = []
            while event is not None:
                type_, body = event
                shown = tables.table(watch.resource, [body], {}, whole=False) if as_table else body
                lines.append(_line(type_, shown))
                if watch.queue.empty():
                    break
                event = watch.queue.get_nowait()
            if lines:
                await response.write(b"".join(lines))
            if event is None:
                return
        if bookmarks:
            # So that the next watch goes on from here, however long nothing of this kind has changed.
            await response.write(_line("BOOKMARK", self._bookmark(watch.resource)))

    def _bookmark(self, resource: Resource) -> Json:
        version = {"resourceVersion": str(self._storage.version), "creationTimestamp": None}
        return {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": version}

    # --- single objects

    def _one(self, request: web.Request, resource: Resource, body: Json, code: int = 200) -> web.Response:
        if bodies.wants_table(request):
            metadata = {"resourceVersion": body["metadata"].get("resourceVersion", "")}
            return bodies.answer(tables.table(resource, [body], metadata), code)
        return bodies.answer(body, code)

    async def _put(self, request: web.Request, target: Target) -> web.StreamResponse:
        body = await _object(request)
        _check_kind(target.resource, body)
        given = (body.get("metadata") or {}).get("name")
        if given and given != target.name:
            raise bad_request(f"the name of the object ({given}) does not match the name on the URL ({target.name})")
        updated = self._objects.update(
            target.resource,
            target.home,
            target.name,
            lambda before: body,
            subresource=target.subresource,
            strict=_strict(request),
            dry="dryRun" in request.query,
        )
        self._after(target.resource, updated)
        return self._one(request, target.resource, updated)

    async def _patch(self, request: web.Request, target: Target) -> web.StreamResponse:
        kind = request.content_type
        patch = await bodies.read(request)
        dry, strict = "dryRun" in request.query, _strict(request)
        if kind in bodies.APPLY:
            if not isinstance(patch, dict):
                raise bad_request("an applied configuration is an object")
            applied, new = self._objects.apply(
                target.resource,
                target.home,
                target.name,
                patch,
                request.query.get("fieldManager", ""),
                force=bodies.flag(request, "force"),
                subresource=target.subresource,
                strict=strict,
                dry=dry,
            )
            self._after(target.resource, applied)
            return self._one(request, target.resource, applied, 201 if new else 200)
        updated = self._objects.update(
            target.resource,
            target.home,
            target.name,
            lambda before: _patched(target.resource, before, kind, patch),
            subresource=target.subresource,
            strict=strict,
            dry=dry,
        )
        self._after(target.resource, updated)
        return self._one(request, target.resource, updated)

    async def _delete(self, request: web.Request, target: Target) -> web.StreamResponse:
        options = await bodies.read(request) or {}
        for name in ("gracePeriodSeconds", "propagationPolicy"):
            if name in request.query:
                value: Any = request.query[name]
                options[name] = int(value) if name == "gracePeriodSeconds" else value
        dry = "dryRun" in request.query
        deleted = self._objects.delete(target.resource, target.home, target.name, options, dry=dry)
        gone_now = self._storage.get(target.resource.key, target.home, target.name) is None
        self._after(target.resource, deleted)
        if gone_now and target.resource.key not in _RETURNED_WHEN_DELETED:
            return bodies.answer(_removed(target.resource, deleted))
        return self._one(request, target.resource, deleted)

    async def _scale(self, request: web.Request, target: Target) -> web.StreamResponse:
        resource = target.resource
        if "scale" not in resource.subresources:
            raise unknown_path()
        body = self._objects.get(resource, target.home, target.name)
        if request.method == "GET":
            return bodies.answer(scale.scale_of(resource, body))
        current = scale.scale_of(resource, body)
        given = await bodies.read(request)
        if request.method == "PATCH":
            given = _patched(resource, current, request.content_type, given)
        elif request.method != "PUT":
            raise method_not_allowed()
        wanted: Json = given
        updated = self._objects.update(
            resource, target.home, target.name, lambda before: scale.scaled(resource, before, wanted)
        )
        return bodies.answer(scale.scale_of(resource, updated))

    def _after(self, resource: Resource, body: Json) -> None:
        """What follows from a write: definitions are served, dependants of what is gone are collected."""
        if resource.plural == CRDS and "deletionTimestamp" not in body["metadata"]:
            with contextlib.suppress(KeyError):
                if self._storage.get(resource.key, "", body["metadata"]["name"]) is not None:
                    self._registry.define(body)
        self._collector.sweep()


def _removed(resource: Resource, body: Json) -> Json:
    """The answer to a deletion that is complete."""
    metadata = body["metadata"]
    details = {"name": metadata["name"], "kind": resource.plural, "uid": metadata["uid"]}
    if resource.group:
        details["group"] = resource.group
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _line(type_: str, body: Json) -> bytes:
    return orjson.dumps({"type": type_, "object": body}) + b"\n"


def _predicate(request: web.Request, resource: Resource) -> Predicate:
    predicates = []
    if request.query.get("labelSelector"):
        predicates.append(label_predicate(request.query["labelSelector"]))
    if request.query.get("fieldSelector"):
        predicates.append(field_predicate(request.query["fieldSelector"], resource.key))
    return both(*predicates)


def _strict(request: web.Request) -> bool:
    return request.query.get("fieldValidation") == "Strict"


async def _object(request: web.Request) -> Json:
    body = await bodies.read(request)
    if not isinstance(body, dict):
        raise bad_request("the body is not an object")
    return body


def _check_kind(resource: Resource, body: Json) -> None:
    given = (body.get("apiVersion", resource.api_version), body.get("kind", resource.kind))
    if given == (resource.api_version, resource.kind):
        return
    if resource.custom and given[0] != resource.api_version:
        words = f"the API version in the data ({given[0]}) does not match the expected API version"
        raise bad_request(f"{words} ({resource.api_version})")
    if resource.custom:
        wrong = cause("FieldValueInvalid", "kind", f'Invalid value: "{given[1]}": must be {resource.kind}')
        raise invalid(resource.kind, resource.group, (body.get("metadata") or {}).get("name", ""), [wrong])
    version = given[0].rpartition("/")[2]
    words = f'{given[1]} in version "{given[0]}" cannot be handled as a {resource.kind}'
    types = f"({version}.{given[1]}) to ({resource.group or 'core'}.{resource.kind})"
    raise bad_request(f"{words}: converting {types}: unknown conversion")


def _patched(resource: Resource, before: Json, kind: str, patch: Any) -> Json:
    if kind == bodies.JSON_PATCH:
        changed: Any = patches.json_patch(before, patch)
    elif kind == bodies.MERGE:
        changed = patches.merge_patch(before, patch)
    elif kind == bodies.STRATEGIC:
        if resource.custom:
            raise unsupported_media_type(bodies.JSON_PATCH, bodies.MERGE, bodies.APPLY[0])
        changed = patches.strategic_merge_patch(before, patch)
    else:
        raise unsupported_media_type(bodies.JSON_PATCH, bodies.MERGE, bodies.STRATEGIC, bodies.APPLY[0])
    if not isinstance(changed, dict):
        raise StatusError(422, "Invalid", "the patched object is not an object")
    return changed
