"""A proxy in front of a real API server that breaks what passes through it: `FaultProxy`."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import orjson
from aiohttp import web

from tests.kubernetes import Kubernetes

GONE = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}


class FaultProxy:
    """Plain http in, the API server's https out. `rate` is the chance of a fault per request and chunk of a watch."""

    def __init__(self, kubernetes: Kubernetes, *, rate: float, seed: int) -> None:
        self.rate = rate
        self.struck: Counter[str] = Counter()
        self.refuse = False
        """Answer everything with 401 and end the open watches."""
        self.url = ""
        self._kubernetes = kubernetes
        self._dice = random.Random(seed)
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[FaultProxy]:
        """Listen on a free port for the block."""
        tls = ssl.create_default_context(cafile=str(self._kubernetes.certificate))
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls, limit=0), auto_decompress=False)
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._forward)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()
            await self._session.close()

    def _strikes(self, fault: str) -> bool:
        if self._dice.random() >= self.rate:
            return False
        self.struck[fault] += 1
        return True

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        watch = "watch" in request.query
        if self.refuse:
            self.struck["401"] += 1
            return web.json_response({"kind": "Status", "code": 401, "reason": "Unauthorized"}, status=401)
        # Writes pass untouched: what they do must be known to compare with.
        if request.method == "GET":
            if self._strikes("500"):
                return web.Response(status=self._dice.choice([500, 502, 503, 504]), text="fault")
            if self._strikes("410"):
                return web.json_response(GONE, status=410)
            if self._strikes("reset"):
                _abort(request)
        assert self._session is not None
        headers = {key: request.headers[key] for key in ("Authorization", "Content-Type") if key in request.headers}
        # Large lists would come compressed, and pass on without the header that says so.
        headers["Accept-Encoding"] = "identity"
        async with self._session.request(
            request.method,
            self._kubernetes.url + request.path_qs,
            data=await request.read() or None,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as answer:
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                if watch and self.refuse:
                    return response
                if watch and await self._break(request, response, chunk):
                    return response
                if self._strikes("slow"):
                    await _trickle(response, chunk)
                else:
                    await response.write(chunk)
            return response

    async def _break(self, request: web.Request, response: web.StreamResponse, chunk: bytes) -> bool:
        if self._strikes("end"):
            return True
        if self._strikes("half a line"):
            await response.write(chunk[: len(chunk) // 2])
            _abort(request)
            return True
        if self._strikes("410 event"):
            await response.write(orjson.dumps({"type": "ERROR", "object": GONE}) + b"\n")
            return True
        return False


async def _trickle(response: web.StreamResponse, chunk: bytes) -> None:
    """Write a chunk in pieces that end in the middle of lines and characters, with pauses."""
    size = max(1, len(chunk) // 7)
    for start in range(0, len(chunk), size):
        await response.write(chunk[start : start + size])
        await asyncio.sleep(0.01)


def _abort(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()
