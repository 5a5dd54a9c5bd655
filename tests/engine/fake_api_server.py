"""An API server for one kind of object that misbehaves when told to: `FakeApiServer`, on a real socket."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

from shoal.kube.credentials import Credentials, StaticSource
from shoal.kube.resources import CONFIG_MAPS

Json = dict[str, Any]
Fault = str
"""For lists: "500", "429", "401", "410 in the middle", "drop". For watches: "410", "410 event", "500", "401", "end",
"drop", "half a line", "garbage", "silence"."""

RESOURCE = CONFIG_MAPS
NAMESPACE = "n"


class FakeApiServer:
    """Holds objects by name, keeps a history of events, and serves lists (paged) and watches of them.

    Each list takes a fault from `list_faults`, each watch one from `watch_faults` (an empty queue: none), which strikes
    after as many events as `events_before_fault` says.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.version = 100
        self.history: list[tuple[int, str, Json]] = []
        self.compacted = 0
        self.list_faults: deque[Fault] = deque()
        self.watch_faults: deque[Fault] = deque()
        self.events_before_fault = 1
        self.lists = self.watches = 0
        self.tokens_seen: list[str] = []
        self.accept_token: Callable[[str], bool] = lambda _: True
        self.bookmarks = False
        self.url = ""
        self._moments: dict[str, list[Json]] = {}
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[FakeApiServer]:
        """Listen on a free port for the block."""
        app = web.Application()
        app.router.add_get(RESOURCE.path(NAMESPACE), self._get)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    def source(self) -> StaticSource:
        """Credentials for this server."""
        return StaticSource(Credentials(server=self.url, token="good"))

    # --- changing the truth

    async def put(self, name: str, value: str, uid: str | None = None) -> None:
        """Create or change an object; another UID makes it another object (deleted and created)."""
        old = self.objects.get(name)
        if old is not None and uid is not None and old["metadata"]["uid"] != uid:
            await self.delete(name)
            old = None
        await self._emit("MODIFIED" if old else "ADDED", name, value, uid or (old or {}).get("metadata", {}).get("uid"))

    async def delete(self, name: str) -> None:
        """Delete an object."""
        body = self.objects[name]
        await self._emit("DELETED", name, body["data"]["v"], body["metadata"]["uid"])

    async def compact(self) -> None:
        """Forget the history: watches from before now are answered with 410."""
        self.compacted = self.version
        self.history.clear()

    async def restore(self, version: int, lost: str, **values: str) -> None:
        """Go back to a version, without one object, and change others from there: versions are used a second time."""
        self.version, self.compacted = version, 0
        self.history.clear()
        self._moments.clear()
        del self.objects[lost]
        for name, value in values.items():
            await self._emit("MODIFIED", name, value, self.objects[name]["metadata"]["uid"])

    async def _emit(self, kind: str, name: str, value: str, uid: str | None) -> None:
        self.version += 1
        meta = {
            "namespace": NAMESPACE, "name": name, "uid": uid or f"{name}@{self.version}",
            "resourceVersion": str(self.version),
        }  # fmt: skip
        body: Json = {"metadata": meta, "data": {"v": value}}
        if kind == "DELETED":
            del self.objects[name]
        else:
            self.objects[name] = body
        self.history.append((self.version, kind, body))
        async with self._changed:
            self._changed.notify_all()

    # --- serving

    async def _get(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.tokens_seen.append(token)
        if not self.accept_token(token):
            return _status(401, "Unauthorized")
        if request.query.get("watch"):
            return await self._watch(request)
        return self._list(request)

    def _list(self, request: web.Request) -> web.Response:
        continued = request.query.get("continue")
        if not continued:
            self.lists += 1
        fault = self.list_faults[0] if self.list_faults else ""
        if fault == "410 in the middle" and (continued or not request.query.get("limit")):
            self.list_faults.popleft()
            if continued:
                return _status(410, "Expired")
        elif fault and fault != "410 in the middle":
            self.list_faults.popleft()
            if fault == "drop":
                _abort(request)
            return _status(int(fault), "Fault", {"Retry-After": "0"} if fault == "429" else {})
        # A continued list is of the moment it began at, and has that moment's version on every page.
        version, start = (continued or f"{self.version}/0").split("/")
        items = self._moments.setdefault(version, [self.objects[name] for name in sorted(self.objects)])
        end = int(start) + (int(request.query.get("limit", "0")) or len(items))
        meta = {"resourceVersion": version, "continue": f"{version}/{end}" if end < len(items) else ""}
        page = {"metadata": meta, "items": items[int(start) : end]}
        return web.json_response(page, dumps=lambda body: orjson.dumps(body).decode())

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.watches += 1
        fault = self.watch_faults.popleft() if self.watch_faults else ""
        since = int(request.query["resourceVersion"])
        if fault in ("410", "500", "401"):
            return _status(int(fault), "Expired" if fault == "410" else "Fault")
        if since < self.compacted:
            return _status(410, "Expired")
        response = web.StreamResponse()
        await response.prepare(request)
        end = asyncio.get_running_loop().time() + float(request.query["timeoutSeconds"])
        sent = 0
        while asyncio.get_running_loop().time() < end:
            for version, kind, body in [event for event in self.history if event[0] > since]:
                if fault and sent >= self.events_before_fault:
                    break
                await response.write(_line(kind, body))
                since, sent = version, sent + 1
            if fault and sent >= self.events_before_fault:
                await self._strike(fault, request, response)
                return response
            if since < self.compacted:
                await response.write(_line("ERROR", {"code": 410, "reason": "Expired", "message": "too old"}))
                return response
            if self.bookmarks and sent == 0:
                await response.write(_line("BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}}))
                since = max(since, self.version)
            await self._wait(since, min(0.05, max(0.0, end - asyncio.get_running_loop().time())))
        return response

    async def _strike(self, fault: Fault, request: web.Request, response: web.StreamResponse) -> None:
        if fault == "410 event":
            await response.write(_line("ERROR", {"code": 410, "reason": "Expired", "message": "too old"}))
        elif fault == "garbage":
            await response.write(b"not json\n")
        elif fault == "half a line":
            await response.write(b'{"type": "ADDED", "obj')
            _abort(request)
        elif fault == "drop":
            _abort(request)
        elif fault == "silence":
            await asyncio.sleep(30)

    async def _wait(self, since: int, seconds: float) -> None:
        async with self._changed:
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait_for(lambda: self.version > since)
            except TimeoutError:
                return


def _line(kind: str, body: Json) -> bytes:
    return orjson.dumps({"type": kind, "object": body}) + b"\n"


def _status(code: int, reason: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"kind": "Status", "code": code, "reason": reason, "message": f"fault {code}"}
    return web.json_response(body, status=code, headers=headers)


def _abort(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()
