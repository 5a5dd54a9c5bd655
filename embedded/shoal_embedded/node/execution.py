"""A command beside a running container: `kubectl exec` and, with tar, `kubectl cp`, over a WebSocket.

The protocol is Kubernetes' remote command, v4 and v5 (`channel.k8s.io`): binary frames whose first byte is a channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import orjson
from aiohttp import WSMsgType, web

from shoal_embedded.node.failures import StartError
from shoal_embedded.node.probes import Target
from shoal_embedded.node.variables import find_program

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
CLOSE = 255
"""Of v5: the next byte is a channel that the client closes, which is standard input."""
CHUNK = 32 * 1024
Json = dict[str, Any]
Send = Callable[[int, bytes], Awaitable[None]]


class Execution:
    """One command: started in a session of its own, fed and drained until it ends; killed when nobody listens."""

    def __init__(self, command: list[str], target: Target, *, stdin: bool, tty: bool) -> None:
        self._command = command
        self._target = target
        self._stdin = stdin
        self._tty = tty
        self._master = -1
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it. Raises `StartError` for a program that is not there."""
        program = find_program(self._command[0], self._target.variables)
        pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        streams: Json = {"stdin": pipe if self._stdin else nothing, "stdout": pipe, "stderr": pipe}
        slave = -1
        if self._tty:
            self._master, slave = pty.openpty()
            streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        try:
            self._process = await asyncio.create_subprocess_exec(
                program,
                *self._command[1:],
                env={"TERM": "xterm", **self._target.variables},
                cwd=self._target.folder,
                start_new_session=not self._tty,
                preexec_fn=partial(_take_terminal, slave) if self._tty else None,
                **streams,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise StartError(f'exec: "{program}": {error}') from error
        finally:
            if slave >= 0:
                os.close(slave)

    async def drain(self, send: Send) -> int:
        """Send what it prints until it has ended; return its exit code."""
        assert self._process is not None
        process = self._process
        if self._tty:
            await self._drain_terminal(send)
        else:
            assert process.stdout is not None
            assert process.stderr is not None
            await asyncio.gather(_copy(process.stdout, STDOUT, send), _copy(process.stderr, STDERR, send))
        code = await process.wait()
        return code if code >= 0 else 128 - code

    async def feed(self, channel: int, content: bytes) -> None:
        """Take a frame of the client."""
        assert self._process is not None
        pipe = self._process.stdin
        if channel == STDIN and self._tty:
            os.write(self._master, content)
        elif channel == STDIN and pipe is not None:
            with contextlib.suppress(ConnectionError):
                pipe.write(content)
                await pipe.drain()
        elif channel == CLOSE and pipe is not None:
            pipe.close()
        elif channel == RESIZE and self._tty:
            size = orjson.loads(content)
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", size["Height"], size["Width"], 0, 0))

    def kill(self) -> None:
        """Kill it and what it has started in its session; nothing when it has ended."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    async def _drain_terminal(self, send: Send) -> None:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        os.set_blocking(self._master, False)
        loop.add_reader(self._master, readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                try:
                    content = os.read(self._master, CHUNK)
                except BlockingIOError:
                    continue
                except OSError:
                    # The last process of the terminal has closed it.
                    return
                await send(STDOUT, content)
        finally:
            loop.remove_reader(self._master)


async def serve(request: web.Request, command: list[str], target: Target, running: Callable[[], bool]) -> Any:
    """Run the command for this client. `running`: whether the container is still the one that was meant."""
    query = request.query
    execution = Execution(command, target, stdin=query.get("stdin") == "true", tty=query.get("tty") == "true")
    socket = web.WebSocketResponse(protocols=PROTOCOLS, compress=False)
    if not socket.can_prepare(request):
        raise web.HTTPBadRequest(text="exec needs a WebSocket: kubectl 1.30 or later\n")
    await socket.prepare(request)

    async def send(channel: int, content: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            await socket.send_bytes(bytes([channel]) + content)

    try:
        await execution.start()
    except StartError as error:
        refusal = {"metadata": {}, "status": "Failure", "message": str(error), "reason": "InternalError", "code": 500}
        await send(ERROR, orjson.dumps(refusal))
        await socket.close()
        return socket
    drained = asyncio.ensure_future(execution.drain(send))
    others = [asyncio.ensure_future(work) for work in (_listen(socket, execution), _until_ended(running))]
    try:
        await asyncio.wait({drained, *others}, return_when=asyncio.FIRST_COMPLETED)
        if drained.done():
            code = drained.result()
            words = f"command terminated with exit code {code}"
            await send(ERROR, orjson.dumps(_failure(code, words) if code else {"metadata": {}, "status": "Success"}))
    finally:
        for task in (drained, *others):
            task.cancel()
        await asyncio.gather(drained, *others, return_exceptions=True)
        execution.kill()
        await socket.close()
    return socket


async def _listen(socket: web.WebSocketResponse, execution: Execution) -> None:
    async for message in socket:
        if message.type is WSMsgType.BINARY and message.data:
            await execution.feed(message.data[0], message.data[1:])


async def _until_ended(running: Callable[[], bool]) -> None:
    while running():  # noqa: ASYNC110 (a container has no event for its end that outlives a restart of the node)
        await asyncio.sleep(0.2)


async def _copy(stream: asyncio.StreamReader, channel: int, send: Send) -> None:
    while content := await stream.read(CHUNK):
        await send(channel, content)


def _failure(code: int, message: str) -> Json:
    """A Status as kubelet sends it; kubectl ends with the code of its cause."""
    details = {"causes": [{"reason": "ExitCode", "message": str(code)}]}
    return {"metadata": {}, "status": "Failure", "message": message, "reason": "NonZeroExitCode", "details": details}


def _take_terminal(slave: int) -> None:
    # Here and by its own number: uvloop calls this before it makes sessions and standard streams.
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
