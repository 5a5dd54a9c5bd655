"""The operator's own HTTP endpoint: `/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

import asyncio
import socket

from aiohttp import web

from shoal.engine.manager import Manager

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


EVERY_ADDRESS = "::"
BACKLOG = 128


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; `::` takes both families, and IPv4 alone where the kernel has no IPv6. Raises OSError."""
    if host == EVERY_ADDRESS and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == EVERY_ADDRESS
    return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)


class Endpoint:
    """Serves the state of one manager at `listen` ("HOST:PORT"; port 0 takes a free one, see `port`)."""

    def __init__(self, manager: Manager, listen: str) -> None:
        host, colon, port = listen.rpartition(":")
        if not colon or not port.isdigit():
            raise ValueError(f"listen address {listen!r}: expected HOST:PORT")
        self.port = int(port)
        self.started = asyncio.Event()
        self._host = host.strip("[]") or "127.0.0.1"
        self._manager = manager

    async def run(self) -> None:
        """Serve until cancelled."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.SockSite(runner, listen(self._host, self.port))
            await site.start()
            self.port = int(runner.addresses[0][1])
            self.started.set()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        # That the loop answers is the point: parts that fail end the process by themselves.
        return web.json_response({"status": "alive"})

    async def _readyz(self, _: web.Request) -> web.Response:
        # A standby is ready, too: it holds complete caches and waits for the lease.
        manager, troubles = self._manager, self._manager.troubles
        state = {"synced": manager.synced, "leading": manager.leading, "troubles": troubles}
        return web.json_response(state, status=200 if manager.synced and not troubles else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._manager.metrics.render().encode(), headers={"Content-Type": METRICS_TYPE})
