"""Probes: one request, one connection or one command, and what a row of their answers means."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal_embedded.node.podspec import Container
from shoal_embedded.node.variables import find_program

Json = dict[str, Any]

EAGER_SECONDS = 0.25
"""Until a container answers for the first time it is asked this often, at no risk to it: only a success counts then.
With the probe's own period alone, every start would take one period longer."""


@dataclass(slots=True)
class ProbeTally:
    """Counts answers; `observe` tells when the verdict changes."""

    success_threshold: int = 1
    failure_threshold: int = 3
    verdict: bool | None = None
    successes: int = 0
    failures: int = 0

    @classmethod
    def of(cls, probe: Json) -> ProbeTally:
        """Read the thresholds of a probe."""
        return cls(int(probe.get("successThreshold") or 1), int(probe.get("failureThreshold") or 3))

    def observe(self, success: bool) -> bool | None:
        """Count one answer; return the new verdict, or None when it stays."""
        if success:
            self.successes, self.failures = self.successes + 1, 0
            reached = self.successes >= self.success_threshold
        else:
            self.successes, self.failures = 0, self.failures + 1
            reached = self.failures >= self.failure_threshold
        if not reached or self.verdict is success:
            return None
        self.verdict = success
        return success


@dataclass(frozen=True)
class Target:
    """The container that is asked: its address, and for commands its variables and folder."""

    ip: str
    container: Container
    variables: Mapping[str, str]
    folder: str


async def ask(probe: Json, target: Target) -> str:
    """Ask once; return an empty text for a success, else what is wrong."""
    timeout = float(probe.get("timeoutSeconds") or 1)
    try:
        async with asyncio.timeout(timeout):
            return await run_handler(probe, target)
    except TimeoutError:
        return f"timeout after {timeout:g} s"
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__


async def run_handler(handler: Json, target: Target) -> str:
    """Run a probe's or hook's action; return an empty text for a success, else what is wrong."""
    if "httpGet" in handler:
        return await _http_get(handler["httpGet"], target)
    if "tcpSocket" in handler:
        place = handler["tcpSocket"]
        _, writer = await asyncio.open_connection(str(place.get("host") or target.ip), _port(place["port"], target))
        writer.transport.abort()
        return ""
    if "exec" in handler:
        return await _execute([str(word) for word in handler["exec"].get("command") or ()], target)
    if "sleep" in handler:
        await asyncio.sleep(float(handler["sleep"]["seconds"]))
        return ""
    return f"no supported action among {', '.join(sorted(handler))}"


def _port(port: int | str, target: Target) -> int:
    if isinstance(port, int) or port.isdigit():
        return int(port)
    if port not in target.container.ports:
        raise ValueError(f"container {target.container.name} has no port named {port}")
    return target.container.ports[port]


async def _http_get(action: Json, target: Target) -> str:
    host = str(action.get("host") or target.ip)
    port = _port(action["port"], target)
    tls = None
    if str(action.get("scheme") or "HTTP").upper() == "HTTPS":
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        path = str(action.get("path") or "/")
        headers = {"Host": f"{host}:{port}", "User-Agent": "kube-probe/1.34", "Accept": "*/*", "Connection": "close"}
        headers |= {str(header["name"]): str(header["value"]) for header in action.get("httpHeaders") or ()}
        lines = [f"GET {path if path.startswith('/') else '/' + path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        words = (await reader.readline()).split(None, 2)
        if len(words) < 2 or not words[1].isdigit():
            return "the answer is not HTTP"
        return "" if 200 <= int(words[1]) < 400 else f"HTTP probe failed with statuscode: {int(words[1])}"
    finally:
        writer.transport.abort()


async def _execute(command: list[str], target: Target) -> str:
    if not command:
        return "exec: no command"
    program = find_program(command[0], target.variables)
    process = await asyncio.create_subprocess_exec(
        program,
        *command[1:],
        env=dict(target.variables),
        cwd=target.folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    if process.returncode == 0:
        return ""
    return output[-1024:].decode(errors="replace").strip() or f"exit code {process.returncode}"
