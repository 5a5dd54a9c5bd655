"""The HTTP application: paths, authentication, errors."""

import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from shoal_embedded.apiserver import absent, bodies, discovery, execs, logs, openapi
from shoal_embedded.apiserver.collector import Collector
from shoal_embedded.apiserver.errors import StatusError, unknown_path
from shoal_embedded.apiserver.handlers import Handlers, Target
from shoal_embedded.apiserver.objects import Objects, timestamp
from shoal_embedded.apiserver.resources import CRDS, Registry, Resource
from shoal_embedded.apiserver.storage import Storage
from shoal_embedded.apiserver.watching import Watches

log = logging.getLogger(__name__)
Json = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

NAMESPACES = ("default", "kube-system")
_OPEN = ("/healthz", "/readyz", "/livez")
_PATH = "path"
NO_PAGE = "404 page not found\n"
"""What is said of paths below which nothing is served."""
BODY_LIMIT = 3 * 1024 * 1024
_DEFINITIONS = f"{CRDS}.apiextensions.k8s.io"


class ApiServer:
    """The parts of the server, and its routes."""

    def __init__(self, storage: Storage, token: str | None = None) -> None:
        self._storage = storage
        self._token = token
        self._registry = Registry()
        for definition in storage.objects(_DEFINITIONS):
            self._registry.define(definition)
        self._objects = Objects(storage)
        self._objects.on_removed.append(self._removed)
        self._watches = Watches(storage)
        self._collector = Collector(storage, self._registry, self._objects)
        self._handlers = Handlers(storage, self._registry, self._objects, self._watches, self._collector)
        self._begin()

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[self._guard], client_max_size=BODY_LIMIT)
        app.router.add_route("*", "/{path:.*}", self._route)

        async def end_watches(_: web.Application) -> None:
            self._watches.end_all()

        app.on_shutdown.append(end_watches)
        return app

    def _begin(self) -> None:
        """What is there before anybody asks for it; and what a killed server may have left half done."""
        namespaces = self._registry.find("", "v1", "namespaces")
        accounts = self._registry.find("", "v1", "serviceaccounts")
        assert namespaces is not None
        assert accounts is not None
        for name in NAMESPACES:
            if self._storage.get("namespaces", "", name) is None:
                self._objects.create(
                    namespaces, "", {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}
                )
                self._objects.create(accounts, name, {"metadata": {"name": "default"}})
        self._collector.recover()

    def _removed(self, resource: Resource, body: Json) -> None:
        if resource.key == _DEFINITIONS:
            spec = body["spec"]
            key = f"{spec['names']['plural']}.{spec['group']}"
            for orphan in self._storage.objects(key):
                self._storage.remove(key, orphan)
            self._registry.undefine(body)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            request[_PATH] = self._admit(request)
            return await handler(request)
        except StatusError as error:
            return bodies.failure(error)
        except web.HTTPNotFound:
            raise
        except web.HTTPRequestEntityTooLarge:
            return bodies.failure(StatusError(413, "RequestEntityTooLarge", f"the body exceeds {BODY_LIMIT} bytes"))
        except Exception as error:
            log.exception("%s %s failed", request.method, request.path)
            return bodies.failure(StatusError(500, "InternalError", f"{type(error).__name__}: {error}"))

    def _admit(self, request: web.Request) -> str:
        """The path that is asked for; raises 401 without the token.

        The token is the first part of the path, because kubectl sends no bearer token where there is no TLS; a bearer
        token will do as well.
        """
        first, _, rest = request.path.lstrip("/").partition("/")
        if self._token is None or request.path in _OPEN:
            return request.path
        if hmac.compare_digest(first.encode(), self._token.encode()):
            return f"/{rest}"
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if hmac.compare_digest(given.encode(), self._token.encode()):
            return request.path
        raise StatusError(401, "Unauthorized", "Unauthorized")

    async def _route(self, request: web.Request) -> web.StreamResponse:
        parts = [part for part in request[_PATH].split("/") if part]
        fixed = self._fixed(parts, request.path.removesuffix(request[_PATH]))
        if fixed is not None:
            return bodies.answer(fixed) if isinstance(fixed, dict) else web.Response(text=fixed)
        if parts[:1] == ["apis"] and parts[1:3] == ["authorization.k8s.io", "v1"]:
            return bodies.answer(await _allowed(request, parts[-1]), 201)
        target = self._target(parts)
        missing = absent.subresource(target.resource.plural, target.subresource)
        if missing is not None:
            raise missing
        if target.resource.key == "pods" and target.subresource == "exec":
            pod = self._objects.get(target.resource, target.home, target.name)
            return await execs.relay(request, self._storage, pod)
        if target.resource.key == "pods" and target.subresource == "log":
            pod = self._objects.get(target.resource, target.home, target.name)
            return await logs.stream(request, self._storage, pod)
        return await self._handlers.handle(request, target)

    def _fixed(self, parts: list[str], prefix: str) -> Json | str | None:
        """Answers that no object has a part in; `prefix` is what stands before the path in the server's URL."""
        match parts:
            case ["healthz" | "readyz" | "livez", *_]:
                return "ok"
            case ["version"]:
                return dict(discovery.VERSION)
            case ["api"]:
                return discovery.core_versions()
            case ["apis"]:
                return discovery.group_list(self._registry)
            case ["api", "v1"]:
                return discovery.resource_list("v1", self._registry.in_version("", "v1"))
            case ["apis", group]:
                versions = self._registry.groups().get(group)
                return discovery.group(group, versions) if versions else None
            case ["apis", group, version] if self._registry.in_version(group, version):
                return discovery.resource_list(f"{group}/{version}", self._registry.in_version(group, version))
            case ["openapi", "v2"]:
                return openapi.swagger()
            case ["openapi", "v3"]:
                return openapi.index(self._registry, prefix)
            case ["openapi", "v3", "api", "v1"]:
                return openapi.document(self._registry.in_version("", "v1"))
            case ["openapi", "v3", "apis", group, version] if self._registry.in_version(group, version):
                return openapi.document(self._registry.in_version(group, version))
        return None

    def _target(self, parts: list[str]) -> Target:
        """What a path names; raises 404 for one that names nothing."""
        if parts[:1] == ["api"] and len(parts) > 2:
            group, version, rest = "", parts[1], parts[2:]
        elif parts[:1] == ["apis"] and len(parts) > 3:
            group, version, rest = parts[1], parts[2], parts[3:]
        else:
            raise web.HTTPNotFound(text=NO_PAGE)
        if not self._registry.in_version(group, version):
            missing = absent.group(group)
            if missing is not None:
                raise missing
            raise web.HTTPNotFound(text=NO_PAGE)
        namespace = None
        if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
            namespace, rest = rest[1], rest[2:]
        resource = self._registry.find(group, version, rest[0])
        if resource is None or len(rest) > 3 or (namespace is not None and not resource.namespaced):
            raise unknown_path()
        name, subresource = (*rest[1:], "", "")[:2]
        if name and resource.namespaced and namespace is None:
            raise unknown_path()
        return Target(resource, namespace, name, subresource)


async def _allowed(request: web.Request, review: str) -> Json:
    """Whoever has the token may do everything."""
    metadata = {"creationTimestamp": timestamp()}
    if review == "selfsubjectrulesreviews":
        # Which namespace it asks about changes nothing, so its body, protobuf from kubectl, is not read.
        body = {"kind": "SelfSubjectRulesReview", "apiVersion": "authorization.k8s.io/v1", "spec": {}}
        everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
        urls = {"verbs": ["*"], "nonResourceURLs": ["*"]}
        rules = {"resourceRules": [everything], "nonResourceRules": [urls], "incomplete": False}
        return {**body, "metadata": metadata, "status": rules}
    body = await bodies.read(request) or {}
    return {**body, "metadata": metadata, "status": {"allowed": True, "reason": "the embedded API server has one user"}}
