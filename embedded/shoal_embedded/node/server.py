"""The node's HTTP server: logs, commands and figures, by its own paths and by kubelet's."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import orjson
from aiohttp import web

from shoal_embedded.node import execution
from shoal_embedded.node.figures import Figures
from shoal_embedded.node.logfiles import LogFile
from shoal_embedded.node.podspec import format_time, parse_time
from shoal_embedded.node.runner import ContainerRunner
from shoal_embedded.node.worker import PodWorker

FOLLOW_SECONDS = 0.1
"""Between looks at a file that is followed."""


@dataclass(frozen=True, slots=True)
class LogQuery:
    """What part of a log is asked for, by the names of the API's log options."""

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    since: float | None = None
    limit_bytes: int | None = None

    @classmethod
    def read(cls, request: web.Request) -> LogQuery:
        """Read the query; raises `HTTPBadRequest` naming a parameter that is no number."""
        query = request.query

        def flag(name: str) -> bool:
            return query.get(name, "").lower() in ("true", "1")

        def number(name: str) -> int | None:
            text = query.get(name)
            if text in (None, ""):
                return None
            if not text.lstrip("-").isdigit():
                raise web.HTTPBadRequest(text=f"{name}: {text!r} is not a whole number\n")
            return int(text)

        seconds = number("sinceSeconds")
        since = time.time() - seconds if seconds is not None else None
        if query.get("sinceTime"):
            try:
                since = parse_time(query["sinceTime"])
            except ValueError as error:
                raise web.HTTPBadRequest(text=f"sinceTime: {error}\n") from error
        return cls(
            flag("follow"), flag("previous"), flag("timestamps"), number("tailLines"), since, number("limitBytes")
        )

    def start(self, log: LogFile) -> int:
        """Return the position at which the answer begins."""
        begin = log.start() if self.tail_lines is None else log.tail(self.tail_lines)
        return begin if self.since is None else max(begin, log.since(self.since))


class NodeServer:
    """Serves `/logs/NAMESPACE/POD/CONTAINER`, `/exec/…`, kubelet's `/containerLogs/…`, `/stats/summary`, `/healthz`."""

    def __init__(
        self,
        listen: str,
        figures: Figures,
        workers: Callable[[], Iterable[PodWorker]],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        host, _, port = listen.rpartition(":")
        self.host, self.port = host or "127.0.0.1", int(port)
        self._figures = figures
        self._workers = workers
        self._tls = tls
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Base URL, valid after `start`."""
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    async def start(self) -> None:
        """Begin to serve; port 0 takes a free one."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/stats/summary", self._summary)
        for prefix in ("logs", "containerLogs"):
            app.router.add_get(f"/{prefix}/{{namespace}}/{{pod}}/{{container}}", self._logs)
        app.router.add_get("/exec/{namespace}/{pod}/{container}", self._exec)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port, ssl_context=self._tls).start()
        self.port = int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _summary(self, _: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(self._figures.summary(self._workers())), content_type="application/json")

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        query = LogQuery.read(request)
        _, runner = self._find(request)
        attempt = runner.record.attempt - (1 if query.previous else 0)
        if attempt < 1:
            what = f"container {runner.record.name!r} in pod {request.match_info['pod']!r}"
            if query.previous:
                raise web.HTTPBadRequest(text=f"previous terminated {what} not found\n")
            reason = runner.record.waiting_message or runner.record.waiting_reason or "ContainerCreating"
            raise web.HTTPBadRequest(text=f"{what} is waiting to start: {reason}\n")
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await self._send(response, runner, attempt, query)
        await response.write_eof()
        return response

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        worker, runner = self._find(request)
        attempt, command = runner.record.attempt, request.query.getall("command", [])
        if not command:
            raise web.HTTPBadRequest(text="exec: no command\n")
        if not runner.record.running:
            raise web.HTTPBadRequest(text=f"container {runner.record.name!r} does not run\n")
        command, target = runner.beside(worker.pod, command)

        def running() -> bool:
            return runner.record.running and runner.record.attempt == attempt

        response: web.StreamResponse = await execution.serve(request, command, target, running)
        return response

    async def _send(self, response: web.StreamResponse, runner: ContainerRunner, attempt: int, query: LogQuery) -> None:
        log = runner.log_file(previous=query.previous)
        position, left = query.start(log), query.limit_bytes
        while True:
            # Asked before reading: what is written between the two is read in the next round.
            over = runner.record.attempt != attempt or not runner.record.running
            content = log.read(position)
            if query.timestamps and not (over and len(content) < 4096):
                content = content[: content.rfind(b"\n") + 1] or content[:0]
            if left is not None:
                content, left = content[:left], max(0, left - len(content))
            if content:
                await response.write(_stamp(log, position, content) if query.timestamps else content)
                position += len(content)
            elif over or not query.follow:
                return
            else:
                await asyncio.sleep(FOLLOW_SECONDS)
            if left == 0:
                return

    def _find(self, request: web.Request) -> tuple[PodWorker, ContainerRunner]:
        namespace, pod, name = (request.match_info[key] for key in ("namespace", "pod", "container"))
        for worker in self._workers():
            if worker.pod.namespace == namespace and worker.pod.name == pod:
                if name in worker.runners:
                    return worker, worker.runners[name]
                raise web.HTTPNotFound(text=f"container {name!r} in pod {pod!r} is not valid\n")
        raise web.HTTPNotFound(text=f"pod {namespace}/{pod} does not run on this node\n")


def _stamp(log: LogFile, position: int, content: bytes) -> bytes:
    lines = log.stamped(position, content, time.time())
    return b"".join(format_time(stamp).encode() + b" " + line for stamp, line in lines)
