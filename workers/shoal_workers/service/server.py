"""Serving a role's application: uvicorn on uvloop, stopped gracefully by the first signal and hard by the second."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec

import uvicorn

from shoal.api.addresses import http_url
from shoal_workers.service.app import Service

# A client that keeps connections for 30 s must never meet a server that closed one in the same instant.
KEEP_ALIVE_SECONDS = 75
BACKLOG = 2048


class _Server(uvicorn.Server):
    """A uvicorn server whose stop first tells the service, and which leaves signals to `run`."""

    def __init__(self, service: Service, shutdown_seconds: float) -> None:
        super().__init__(
            uvicorn.Config(
                service.app,
                http="httptools",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                # Only members speak WebSocket; the other roles do without the package.
                ws="websockets-sansio" if find_spec("websockets") else "none",
                ws_per_message_deflate=False,
                log_config=None,
                log_level="warning",
                lifespan="on",
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=max(1, round(shutdown_seconds)),
            )
        )
        self._service = service
        service.stops_by(self._ask)

    def _ask(self) -> None:
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: `run` owns the signals, so that a graceful stop exits with 0."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the service drain while it still answers, then stop."""
        await self._service.begin_stop()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; raises OSError where the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay (40 ms for each answer) off only where the protocol is named.
    server = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((host, port))
        server.listen(BACKLOG)
    except OSError:
        server.close()
        raise
    server.setblocking(False)
    return server


def url_of(listener: socket.socket) -> str:
    """The base URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return http_url(host, port)


async def serve(service: Service, listener: socket.socket, shutdown_seconds: float = 20.0) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends the process at once with status 1."""
    server = _Server(service, shutdown_seconds)
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if server.should_exit:
            os._exit(1)
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await server.serve(sockets=[listener])
    if not server.started:
        raise RuntimeError(f"{service.role} did not start")


def run(service: Service, host: str, port: int, shutdown_seconds: float = 20.0) -> None:
    """Serve in this process on uvloop until it is told to stop."""
    import uvloop

    listener = listen(host, port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(service, listener, shutdown_seconds))


@contextlib.asynccontextmanager
async def serving(
    service: Service, host: str = "127.0.0.1", port: int = 0, shutdown_seconds: float = 5.0
) -> AsyncIterator[str]:
    """Serve inside the running event loop while the block runs; gives the base URL."""
    listener = listen(host, port)
    server = _Server(service, shutdown_seconds)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        if task.done():
            task.result()
            raise RuntimeError(f"{service.role} did not start")
        await asyncio.sleep(0.005)
    try:
        yield url_of(listener)
    finally:
        server.should_exit = True
        await task
