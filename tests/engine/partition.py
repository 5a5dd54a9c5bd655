"""A network that can be cut: a TCP forwarder in front of an API server, TLS and all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class Partition:
    """Forwards bytes both ways. While `cut`, it swallows them without a word, as a network does that is gone."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._target = (parts.hostname, parts.port)
        self.url = ""
        self.cut = False
        self._doomed: set[asyncio.StreamWriter] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Partition]:
        """Listen on a free port for the block."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for writer in self._open:
                writer.close()

    def heal(self) -> None:
        """Let new connections through; those that lost bytes are reset."""
        self.cut = False
        for writer in list(self._doomed):
            writer.transport.abort()
        self._doomed.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        while self.cut:
            self._doomed.add(writer)
            await asyncio.sleep(0.05)
        if writer in self._doomed or writer.is_closing():
            return
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            self._open.add(far_writer)
            for source, sink in ((reader, far_writer), (far_reader, writer)):
                task = asyncio.create_task(self._pump(source, sink, (writer, far_writer)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, ends: tuple[asyncio.StreamWriter, ...]
    ) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if self.cut or self._doomed.intersection(ends):
                    self._doomed.update(ends)
                    continue
                sink.write(data)
                await sink.drain()
        if not self.cut:
            sink.close()
