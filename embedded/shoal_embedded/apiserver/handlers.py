"""The verbs: create, update, patch, apply, delete, and who answers the others; on objects and their subresources."""

import contextlib
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from shoal_embedded.apiserver import bodies, options, patches, scale
from shoal_embedded.apiserver.binding import bind
from shoal_embedded.apiserver.collector import Collector
from shoal_embedded.apiserver.errors import (
    StatusError,
    bad_request,
    invalid,
    method_not_allowed,
    not_found,
    not_supported,
    unknown_path,
    unsupported_media_type,
)
from shoal_embedded.apiserver.objects import Objects
from shoal_embedded.apiserver.reading import Reader, number
from shoal_embedded.apiserver.resources import CRDS, Registry, Resource
from shoal_embedded.apiserver.schema import cause
from shoal_embedded.apiserver.storage import Storage
from shoal_embedded.apiserver.watching import Watches

Json = dict[str, Any]

_RETURNED_WHEN_DELETED = frozenset(
    {"pods", "services", "persistentvolumeclaims", "persistentvolumes", "serviceaccounts", "namespaces"}
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
        self._collector = collector
        self._reader = Reader(storage, watches)

    async def handle(self, request: web.Request, target: Target) -> web.StreamResponse:
        """Do what the method and the path ask for."""
        bodies.check_accept(request)
        if not target.name:
            return await self._collection(request, target)
        if target.subresource == "scale":
            return await self._scale(request, target)
        if target.subresource == "binding" and target.resource.key == "pods" and request.method == "POST":
            body = await _object(request)
            return bodies.answer(bind(self._objects, target.resource, target.home, target.name, body), 201)
        if target.subresource and (target.subresource != "status" or "status" not in target.resource.subresources):
            raise _no_subresource(target)
        method = request.method
        if method == "GET":
            body = self._objects.get(target.resource, target.home, target.name)
            return self._reader.one(request, target.resource, body)
        if method == "PUT":
            return await self._put(request, target)
        if method == "PATCH":
            return await self._patch(request, target)
        if method == "DELETE" and not target.subresource:
            return await self._delete(request, target)
        if target.resource.custom and method in ("POST", "DELETE"):
            action = {"POST": "create", "DELETE": "delete"}[method]
            raise not_supported(action, target.resource.plural, target.resource.group)
        raise method_not_allowed()

    # --- collections

    async def _collection(self, request: web.Request, target: Target) -> web.StreamResponse:
        if request.method == "GET":
            if bodies.flag(request, "watch"):
                return await self._reader.watch(request, target.resource, target.namespace)
            return self._reader.listing(request, target.resource, target.namespace)
        if request.method == "POST":
            asked = options.of(request)
            body = await _object(request)
            namespace = target.namespace or (body.get("metadata") or {}).get("namespace", "default")
            home = namespace if target.resource.namespaced else ""
            _check_kind(target.resource, body)
            created = self._objects.create(
                target.resource,
                home,
                body,
                asked,
            )
            self._after(target.resource, created)
            return self._reader.one(request, target.resource, created, 201)
        if request.method == "DELETE" and target.resource.key != "namespaces":
            return await self._delete_all(request, target)
        if target.resource.custom and request.method in ("PUT", "PATCH"):
            raise bad_request("name must be provided")
        raise method_not_allowed()

    async def _delete_all(self, request: web.Request, target: Target) -> web.StreamResponse:
        wanted, dry = await _delete_options(request)
        found = self._reader.selected(request, target.resource, target.namespace)
        for body in found:
            where = body["metadata"].get("namespace", "")
            self._objects.delete(target.resource, where, body["metadata"]["name"], wanted, dry=dry)
        self._collector.sweep()
        return self._reader.listed(request, target.resource, found)

    # --- single objects

    async def _put(self, request: web.Request, target: Target) -> web.StreamResponse:
        asked = options.of(request)
        body = await _object(request)
        _check_kind(target.resource, body)
        _check_names(body, target)
        updated = self._objects.update(
            target.resource,
            target.home,
            target.name,
            lambda before: body,
            asked,
            subresource=target.subresource,
        )
        self._after(target.resource, updated)
        return self._reader.one(request, target.resource, updated)

    async def _patch(self, request: web.Request, target: Target) -> web.StreamResponse:
        asked, kind = options.of(request), request.content_type
        _check_patch_type(target.resource, kind)
        patch = await bodies.read(request)
        if kind in bodies.APPLY:
            if not isinstance(patch, dict):
                raise bad_request("an applied configuration is an object")
            _check_applied(target, patch)
            applied, new = self._objects.apply(
                target.resource,
                target.home,
                target.name,
                patch,
                asked,
                subresource=target.subresource,
            )
            self._after(target.resource, applied)
            return self._reader.one(request, target.resource, applied, 201 if new else 200)
        updated = self._objects.update(
            target.resource,
            target.home,
            target.name,
            lambda before: _patched(target, before, kind, patch),
            asked,
            subresource=target.subresource,
        )
        self._after(target.resource, updated)
        return self._reader.one(request, target.resource, updated)

    async def _delete(self, request: web.Request, target: Target) -> web.StreamResponse:
        wanted, dry = await _delete_options(request)
        deleted = self._objects.delete(target.resource, target.home, target.name, wanted, dry=dry)
        gone_now = self._storage.get(target.resource.key, target.home, target.name) is None
        self._after(target.resource, deleted)
        if (
            gone_now or (dry and not deleted["metadata"].get("finalizers"))
        ) and target.resource.key not in _RETURNED_WHEN_DELETED:
            return bodies.answer(_removed(target.resource, deleted))
        return self._reader.one(request, target.resource, deleted)

    async def _scale(self, request: web.Request, target: Target) -> web.StreamResponse:
        resource = target.resource
        if "scale" not in resource.subresources:
            raise unknown_path()
        body = self._objects.get(resource, target.home, target.name)
        if request.method == "GET":
            return bodies.answer(scale.scale_of(resource, body))
        current = scale.scale_of(resource, body)
        given = await bodies.read(request)
        if request.method == "PATCH" and request.content_type == bodies.JSON_PATCH:
            given = patches.json_patch(current, given)
        elif request.method == "PATCH":
            _check_patch_type(resource, request.content_type)
            given = patches.merge_patch(current, given)
        elif request.method != "PUT":
            raise method_not_allowed()
        wanted: Json = given
        updated = self._objects.update(
            resource,
            target.home,
            target.name,
            lambda before: scale.scaled(resource, before, wanted),
            options.of(request),
            subresource="scale",
        )
        return bodies.answer(scale.scale_of(resource, updated))

    def _after(self, resource: Resource, body: Json) -> None:
        """What follows from a write: definitions are served, dependants of what is gone are collected, a namespace gets
        its service account.
        """
        if resource.plural == CRDS and "deletionTimestamp" not in body["metadata"]:
            with contextlib.suppress(KeyError):
                if self._storage.get(resource.key, "", body["metadata"]["name"]) is not None:
                    self._registry.define(body)
        accounts = self._registry.find("", "v1", "serviceaccounts")
        name = body["metadata"]["name"]
        if resource.key == "namespaces" and accounts is not None and self._is_new(name):
            self._objects.create(accounts, name, {"metadata": {"name": "default"}})
        self._collector.sweep()

    def _is_new(self, namespace: str) -> bool:
        home = self._storage.get("namespaces", "", namespace)
        if home is None or "deletionTimestamp" in home["metadata"]:
            return False
        return self._storage.get("serviceaccounts", namespace, "default") is None


def _no_subresource(target: Target) -> StatusError:
    resource = target.resource
    return not_found(resource.plural, resource.group, target.name) if resource.custom else unknown_path()


def _removed(resource: Resource, body: Json) -> Json:
    """The answer to a deletion that is complete."""
    metadata = body["metadata"]
    details = {"name": metadata["name"], "kind": resource.plural, "uid": metadata["uid"]}
    if resource.group:
        details["group"] = resource.group
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


_POLICIES = ("Foreground", "Background", "Orphan")


async def _delete_options(request: web.Request) -> tuple[Json, bool]:
    """How to delete, by body and query, and whether in earnest; raises 422 for options that are none."""
    dry = options.of(request).dry
    wanted = dict(await bodies.read(request) or {})
    for name in ("gracePeriodSeconds", "propagationPolicy"):
        if name in request.query:
            value: Any = request.query[name]
            wanted[name] = number(value) if name == "gracePeriodSeconds" else value
    policy = wanted.get("propagationPolicy")
    if policy is not None and wanted.get("orphanDependents") is not None:
        words = "orphanDependents and deletionPropagation cannot be both set"
        shown = f'Invalid value: "{policy}": {words}'
        raise invalid("DeleteOptions", "meta.k8s.io", "", [cause("FieldValueInvalid", "propagationPolicy", shown)])
    if policy is not None and policy not in _POLICIES:
        known = ", ".join(f'"{each}"' for each in (*_POLICIES, "nil"))
        words = f'Unsupported value: "{policy}": supported values: {known}'
        raise invalid("DeleteOptions", "meta.k8s.io", "", [cause("FieldValueNotSupported", "propagationPolicy", words)])
    return wanted, dry or wanted.get("dryRun") == ["All"]


async def _object(request: web.Request) -> Json:
    body = await bodies.read(request)
    if not isinstance(body, dict):
        raise bad_request("the body is not an object")
    return body


def _check_kind(resource: Resource, body: Json) -> None:
    given = (body.get("apiVersion", resource.api_version), body.get("kind", resource.kind))
    if resource.custom and not body.get("kind"):
        shown = orjson.dumps(body).decode()
        words = f"the object provided is unrecognized (must be of type {resource.kind}): Object 'Kind' is missing"
        raise bad_request(f"{words} in '{shown}'")
    if resource.custom and body.get("apiVersion") != resource.api_version:
        words = f"the API version in the data ({body.get('apiVersion', '')}) does not match the expected API version"
        raise bad_request(f"{words} ({resource.api_version})")
    if given == (resource.api_version, resource.kind):
        return
    if resource.custom:
        wrong = cause("FieldValueInvalid", "kind", f'Invalid value: "{given[1]}": must be {resource.kind}')
        raise invalid(resource.kind, resource.group, (body.get("metadata") or {}).get("name", ""), [wrong])
    version = given[0].rpartition("/")[2]
    words = f'{given[1]} in version "{given[0]}" cannot be handled as a {resource.kind}'
    types = f"({version}.{given[1]}) to ({resource.group or 'core'}.{resource.kind})"
    raise bad_request(f"{words}: converting {types}: unknown conversion")


def _check_names(body: Json, target: Target) -> None:
    """Raise 400 for a body that names another object, or another namespace, than the path."""
    metadata = body.get("metadata") or {}
    given = metadata.get("name")
    if given and given != target.name:
        raise bad_request(f"the name of the object ({given}) does not match the name on the URL ({target.name})")
    if metadata.get("namespace") not in (None, "", target.home):
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")


def _patched(target: Target, before: Json, kind: str, patch: Any) -> Json:
    resource = target.resource
    if kind == bodies.JSON_PATCH:
        changed: Any = patches.json_patch(before, patch)
    elif kind == bodies.MERGE:
        if not isinstance(patch, dict):
            raise bad_request("json: cannot unmarshal into Go value of type map[string]interface {}")
        changed = patches.merge_patch(before, patch)
    elif kind == bodies.STRATEGIC and not resource.custom:
        changed = patches.strategic_merge_patch(before, patch)
    else:
        raise AssertionError("the type of the patch was checked")
    if not isinstance(changed, dict):
        raise StatusError(422, "Invalid", "the patched object is not an object")
    _check_kind(resource, changed)
    _check_names(changed, target)
    return changed


def _check_applied(target: Target, config: Json) -> None:
    version, kind = config.get("apiVersion", ""), config.get("kind", "")
    if (version, kind) != (target.resource.api_version, target.resource.kind):
        raise bad_request(f"invalid object type: {version or '/'}, Kind={kind}")
    _check_names(config, target)
    if (config.get("metadata") or {}).get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")


def _check_patch_type(resource: Resource, kind: str) -> None:
    known = [bodies.JSON_PATCH, bodies.MERGE, *([] if resource.custom else [bodies.STRATEGIC]), *bodies.APPLY]
    if kind not in known and not resource.custom:
        raise StatusError(415, "UnsupportedMediaType", "415: Unsupported Media Type")
    if kind not in known:
        raise unsupported_media_type(*known[:-1])
