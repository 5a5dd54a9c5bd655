"""Relays TCP from a Service's address to its ready pods."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

log = logging.getLogger(__name__)

Endpoint = tuple[str, int]
"""Address and port of a pod."""
Endpoints = Callable[[], Sequence[Endpoint]]

CONNECT_SECONDS = 3.0
"""How long a connection waits for a pod to take it: a pod that has just died is replaced in the list by then."""
_RETRY_SECONDS = 0.1
_BACKLOG = 1024
_RESET = struct.pack("ii", 1, 0)


class Relay:
    """Listens on one address and hands connections to the endpoints in turn.

    It listens only while there is one, so that a Service without ready pods refuses connections, as in a cluster, and
    a client learns at once that its request was not sent.
    """

    def __init__(self, address: Endpoint, endpoints: Endpoints, *, connect_seconds: float = CONNECT_SECONDS) -> None:
        self.address = address
        self._endpoints = endpoints
        self._server: asyncio.Server | None = None
        self._connect_seconds = connect_seconds
        self._turn = 0
        self._pipes: set[_Pipe] = set()

    async def adjust(self) -> None:
        """Begin or cease to listen, as the endpoints demand. Raises `OSError` when the address is taken."""
        wanted = bool(self._endpoints())
        if wanted and self._server is None:
            loop = asyncio.get_running_loop()
            host, port = self.address
            self._server = await loop.create_server(self._accept, host, port, backlog=_BACKLOG, reuse_address=True)
        elif not wanted and self._server is not None:
            # Connections that are open go on: their pod may be serving its last requests.
            self._server.close()
            self._server = None

    def close(self) -> None:
        """Stop listening and cut all connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for pipe in list(self._pipes):
            pipe.abort()

    def _accept(self) -> asyncio.Protocol:
        return _Pipe(self._pipes, self._connect)

    async def _connect(self, client: _Pipe) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._connect_seconds
        while not client.closed:
            endpoints = self._endpoints()
            for step in range(len(endpoints)):
                host, port = endpoints[(self._turn + step) % len(endpoints)]
                try:
                    _, upstream = await loop.create_connection(lambda: _Pipe(self._pipes), host, port)
                except OSError:
                    continue
                self._turn += step + 1
                client.join(upstream)
                return
            if loop.time() > end:
                client.reset()
                return
            await asyncio.sleep(_RETRY_SECONDS)


class _Pipe(asyncio.Protocol):
    """One side of a relayed connection: what arrives is written to the other side, as fast as that takes it."""

    def __init__(self, pipes: set[_Pipe], connect: Callable[[_Pipe], Coroutine[Any, Any, None]] | None = None) -> None:
        self._pipes = pipes
        self._connect = connect
        self._transport: asyncio.Transport | None = None
        self._peer: _Pipe | None = None
        self._task: asyncio.Task[None] | None = None
        self._early: list[bytes] = []
        self._over = False
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._pipes.add(self)
        # Nothing is read before there is a place to write it to.
        self._transport.pause_reading()
        if self._connect is not None:
            self._task = asyncio.ensure_future(self._connect(self))
            self._task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("a connection could not be relayed", exc_info=task.exception())
            self.reset()

    def join(self, peer: _Pipe) -> None:
        """Begin to relay between this side and `peer`."""
        self._peer, peer._peer = peer, self
        for side in (self, peer):
            if side.closed:
                self.abort()
                peer.abort()
                return
        for side in (self, peer):
            side._forward_early()
        for side in (self, peer):
            if side._transport is not None and not side._over:
                side._transport.resume_reading()

    def _forward_early(self) -> None:
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)
        if self._over:
            self.eof_received()

    def data_received(self, data: bytes) -> None:
        peer = self._peer
        if peer is None:
            # uvloop starts to read after `connection_made`, pause or not, so the first bytes may come early.
            self._early.append(data)
            if self._transport is not None:
                self._transport.pause_reading()
        elif peer._transport is not None:
            peer._transport.write(data)

    def eof_received(self) -> bool:
        self._over = True
        peer = self._peer
        if peer is None:
            return True
        if peer._transport is None or peer.closed:
            return False
        if peer._over:
            peer._transport.close()
            return False
        if peer._transport.can_write_eof():
            peer._transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self._peer is not None and self._peer._transport is not None:
            self._peer._transport.pause_reading()

    def resume_writing(self) -> None:
        peer = self._peer
        if peer is not None and peer._transport is not None and not (peer.closed or peer._over):
            peer._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._pipes.discard(self)
        if self._task is not None:
            self._task.cancel()
        peer = self._peer
        if peer is not None and peer._transport is not None and not peer.closed:
            # After an error there is no telling how much arrived, so the other side must not see a regular end.
            if error is not None:
                peer.reset()
            else:
                peer._transport.close()

    def reset(self) -> None:
        """Close with a reset, so that the other side knows that something went wrong."""
        if self._transport is None:
            return
        raw = self._transport.get_extra_info("socket")
        if raw is not None:
            try:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            except OSError:
                log.debug("a connection was closed before it could be reset")
        self._transport.abort()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
