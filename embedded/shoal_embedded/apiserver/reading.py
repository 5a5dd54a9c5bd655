"""The verbs that read: get, list and watch."""

import asyncio
from typing import Any

import orjson
from aiohttp import web

from shoal_embedded.apiserver import bodies, paging, tables
from shoal_embedded.apiserver.errors import StatusError, bad_request, gone, invalid
from shoal_embedded.apiserver.resources import Resource
from shoal_embedded.apiserver.schema import cause
from shoal_embedded.apiserver.selectors import Predicate, both, field_predicate, label_predicate
from shoal_embedded.apiserver.storage import Storage
from shoal_embedded.apiserver.watching import Watch, Watches

Json = dict[str, Any]

BOOKMARK_SECONDS = 55.0
"""Less than the minute and a half of silence after which clients take a connection for dead."""
LONGEST_WATCH_SECONDS = 3600.0
_INITIAL_EVENTS_END = {"k8s.io/initial-events-end": "true"}
_MATCHES = ("Exact", "NotOlderThan")
_NO_MATCH = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"


class Reader:
    """Answers requests that change nothing."""

    def __init__(self, storage: Storage, watches: Watches) -> None:
        self._storage = storage
        self._watches = watches

    def selected(self, request: web.Request, resource: Resource, namespace: str | None) -> list[Json]:
        """The objects that a request's selectors and namespace name."""
        wanted = predicate(request, resource)
        return [body for body in self._all(resource, namespace) if wanted(body)]

    def _all(self, resource: Resource, namespace: str | None, version: int | None = None) -> list[Json]:
        where = namespace if resource.namespaced else None
        if version is None or version == self._storage.version:
            return self._storage.objects(resource.key, where)
        return self._storage.objects_at(resource.key, version, where)

    # --- list

    def listing(self, request: web.Request, resource: Resource, namespace: str | None) -> web.StreamResponse:
        """Objects, in pages where the client wants that; raises 400, 410, 422 and 504 for versions it cannot have."""
        query = request.query
        limit = max(0, number(query.get("limit") or "0"))
        token, asked = query.get("continue", ""), query.get("resourceVersion", "")
        _check_list(query.get("resourceVersionMatch", ""), asked, token, "sendInitialEvents" in query)
        version, after = self._storage.version, ("", "")
        if token:
            place = paging.place(token)
            version, after = place.version, place.after
        elif asked:
            self._reached(asked)
            if query.get("resourceVersionMatch") == "Exact" or (
                limit and asked != "0" and not query.get("resourceVersionMatch")
            ):
                version = int(asked)
            else:
                # What may be of any later version comes whole.
                limit = 0
        wanted = predicate(request, resource)
        items = [body for body in self._at(resource, namespace, version, token) if wanted(body) and _key(body) > after]
        return self.listed(request, resource, items, version, limit)

    def _at(self, resource: Resource, namespace: str | None, version: int, token: str) -> list[Json]:
        try:
            return self._all(resource, namespace, version)
        except StatusError as error:
            words = (
                "The provided continue parameter is too old to display a consistent list result. You can start a new "
                "list without the continue parameter."
            )
            raise gone(words) if token else error from error

    def listed(
        self, request: web.Request, resource: Resource, items: list[Json], version: int = 0, limit: int = 0
    ) -> web.StreamResponse:
        """Objects of one version (0: of now) as a list, the first `limit` of them (0: all), in the client's form."""
        version = version or self._storage.version
        metadata: Json = {"resourceVersion": str(version)}
        if limit and len(items) > limit:
            metadata["continue"] = paging.Place(version, _key(items[limit - 1])).token()
            if not request.query.get("labelSelector") and not request.query.get("fieldSelector"):
                metadata["remainingItemCount"] = len(items) - limit
            items = items[:limit]
        if bodies.wants_table(request):
            return bodies.answer(tables.table(resource, items, metadata, request.query.get("includeObject", "")))
        if bodies.wants_metadata(request):
            head: Json = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
            return bodies.answer({**head, "items": [tables.partial(body) for body in items]})
        head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": metadata}
        if not resource.custom:
            # The list says it once.
            items = [{key: value for key, value in body.items() if key not in ("apiVersion", "kind")} for body in items]
        return bodies.answer({**head, "items": items})

    def _reached(self, asked: str) -> None:
        """Raise 400 for what is no version, and 504 for one that is still to come."""
        if not asked.isdigit():
            words = f'Invalid value: "{asked}": strconv.ParseUint: parsing "{asked}": invalid syntax'
            raise bad_request(f"invalid resource version: resourceVersion: {words}")
        if int(asked) > self._storage.version:
            words = f"Too large resource version: {asked}, current: {self._storage.version}"
            causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
            raise StatusError(504, "Timeout", words, {"causes": causes, "retryAfterSeconds": 1})

    def one(self, request: web.Request, resource: Resource, body: Json, code: int = 200) -> web.Response:
        """A single object, in the form that the client wants."""
        if bodies.wants_table(request):
            metadata = {"resourceVersion": body["metadata"].get("resourceVersion", "")}
            return bodies.answer(tables.table(resource, [body], metadata, request.query.get("includeObject", "")), code)
        if bodies.wants_metadata(request):
            return bodies.answer(tables.partial(body), code)
        return bodies.answer(body, code)

    # --- watch

    async def watch(self, request: web.Request, resource: Resource, namespace: str | None) -> web.StreamResponse:
        """Tell of changes until the client or the time ends it; raises 410 for a version too old, or never reached."""
        wanted = predicate(request, resource)
        watch = Watch(resource, namespace if resource.namespaced else None, wanted)
        asked, initial = request.query.get("resourceVersion", ""), request.query.get("sendInitialEvents", "").lower()
        _check_watch(request, initial)
        told_end = initial in ("true", "1")
        if told_end or (asked in ("", "0") and not initial):
            for body in self._all(resource, namespace):
                if wanted(body):
                    watch.queue.put_nowait(("ADDED", body))
            if told_end and bodies.flag(request, "allowWatchBookmarks"):
                watch.queue.put_nowait(("BOOKMARK", self._bookmark(resource, _INITIAL_EVENTS_END)))
        elif asked not in ("", "0"):
            self._replay(watch, asked)
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

    def _replay(self, watch: Watch, asked: str) -> None:
        if not asked.isdigit():
            words = f'Invalid value: "{asked}": strconv.ParseUint: parsing "{asked}": invalid syntax'
            raise bad_request(f"resourceVersion: {words}")
        if int(asked) > self._storage.version:
            raise gone(f"too large resource version: {asked}, current: {self._storage.version}")
        for change in self._storage.since(watch.resource.key, int(asked)):
            watch.offer(change)

    async def _stream(self, request: web.Request, response: web.StreamResponse, watch: Watch) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + float(request.query.get("timeoutSeconds") or LONGEST_WATCH_SECONDS)
        bookmarks, told = bodies.flag(request, "allowWatchBookmarks"), False
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
                lines.append(_line(event[0], self._shown(request, watch.resource, *event, heads=not told)))
                told = True
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

    def _shown(self, request: web.Request, resource: Resource, type_: str, body: Json, *, heads: bool) -> Json:
        if bodies.wants_metadata(request):
            return tables.partial(body)
        if type_ == "BOOKMARK" or not bodies.wants_table(request):
            return body
        metadata = {"resourceVersion": body["metadata"]["resourceVersion"]}
        shown = tables.table(resource, [body], metadata, request.query.get("includeObject", ""))
        # The columns are told once.
        return shown if heads else {**shown, "columnDefinitions": None}

    def _bookmark(self, resource: Resource, annotations: Json | None = None) -> Json:
        metadata: Json = {"resourceVersion": str(self._storage.version), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        return {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}


def _check_list(match: str, asked: str, token: str, initial: bool) -> None:
    if token and asked not in ("", "0"):
        raise bad_request("specifying resource version is not allowed when using continue")
    if initial:
        raise _refused("sendInitialEvents", "Forbidden", "sendInitialEvents is forbidden for list")
    if not match:
        return
    if not asked:
        words = "resourceVersionMatch is forbidden unless resourceVersion is provided"
        raise _refused("resourceVersionMatch", "Forbidden", words)
    if match not in _MATCHES:
        words = 'supported values: "Exact", "NotOlderThan", ""'
        raise _refused("resourceVersionMatch", "NotSupported", words, match)
    if match == "Exact" and asked == "0":
        words = 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
        raise _refused("resourceVersionMatch", "Forbidden", words)


def _check_watch(request: web.Request, initial: str) -> None:
    match = request.query.get("resourceVersionMatch", "")
    if not initial and match:
        raise _refused("resourceVersionMatch", "Forbidden", _NO_MATCH)
    if initial and not match:
        words = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        raise _refused("resourceVersionMatch", "Forbidden", words)
    if initial and match != "NotOlderThan":
        words = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        causes = [cause("FieldValueForbidden", "resourceVersionMatch", f"Forbidden: {words}")]
        words = f'Unsupported value: "{match}": supported values: "NotOlderThan"'
        causes.append(cause("FieldValueNotSupported", "resourceVersionMatch", words))
        raise invalid("ListOptions", "meta.k8s.io", "", causes)


def _refused(field: str, reason: str, words: str, value: str = "") -> StatusError:
    text = f"Forbidden: {words}" if reason == "Forbidden" else f'Unsupported value: "{value}": {words}'
    return invalid("ListOptions", "meta.k8s.io", "", [cause(f"FieldValue{reason}", field, text)])


def number(text: str) -> int:
    """A whole number of a query; raises 400 for other text."""
    try:
        return int(text)
    except ValueError as error:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from error


def predicate(request: web.Request, resource: Resource) -> Predicate:
    """What the selectors of a request ask of an object; raises 400 for text that is no selector."""
    predicates = []
    if request.query.get("labelSelector"):
        predicates.append(label_predicate(request.query["labelSelector"]))
    if request.query.get("fieldSelector"):
        predicates.append(field_predicate(request.query["fieldSelector"], resource.key, custom=resource.custom))
    return both(*predicates)


def _key(body: Json) -> tuple[str, str]:
    metadata = body["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _line(type_: str, body: Json) -> bytes:
    return orjson.dumps({"type": type_, "object": body}) + b"\n"
