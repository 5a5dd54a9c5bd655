"""One program of the control plane: started, started again when it dies, ended."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shoal.engine.backoff import Backoff
from shoal_embedded.node.process import open_pidfd, until_readable

log = logging.getLogger(__name__)

CALM_SECONDS = 30.0
"""A program that ran this long starts its back-off anew when it dies."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Program:
    """How to run one program.

    Args:
        name: what it is called in logs.
        command: the command line.
        stop: signal that asks it to end.
        stop_seconds: how long it may take to do so.
        orphan: signal the kernel sends it when the supervisor is killed.
    """

    name: str
    command: Sequence[str]
    stop: signal.Signals = signal.SIGTERM
    stop_seconds: float = 4.0
    orphan: signal.Signals = signal.SIGKILL
    variables: Mapping[str, str] = field(default_factory=dict)


class Child:
    """Keeps one program running until `stop`. All of it must happen in one thread: the kernel takes the end of the
    thread that started a process for the end of its parent.
    """

    def __init__(self, program: Program, folder: Path, variables: Mapping[str, str]) -> None:
        self.program = program
        self.deaths = 0
        """How often it has ended without being asked to."""
        self.deaths_in_a_row = 0
        """The same since it last ran for `CALM_SECONDS`."""
        self.log = folder / f"{program.name}.log"
        self._variables = {**variables, **program.variables}
        self._folder = folder
        self._popen: subprocess.Popen[bytes] | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """Number of the running process, or None."""
        return self._popen.pid if self._popen is not None and self._popen.poll() is None else None

    def start(self) -> None:
        """Start it and keep it running."""
        self._spawn()
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Ask it to end, wait, and kill it when it takes too long."""
        self._stopping = True
        popen = self._popen
        if popen is None or self._task is None:
            return
        if popen.poll() is None:
            popen.send_signal(self.program.stop)
        done, _ = await asyncio.wait({self._task}, timeout=self.program.stop_seconds)
        if not done:
            log.warning("%s does not end; killing it", self.program.name)
            self.kill()
            await asyncio.wait({self._task})

    def kill(self) -> None:
        """Kill it now; does not wait for anything but its remains."""
        self._stopping = True
        if self._popen is not None and self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()

    def last_words(self, lines: int = 8) -> str:
        """Return the end of its log."""
        try:
            text = self.log.read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    async def _keep(self) -> None:
        backoff = Backoff(base=0.2, cap=10.0)
        while True:
            assert self._popen is not None
            started = time.monotonic()
            await self._until_ended(self._popen)
            if self._stopping:
                return
            self.deaths += 1
            self.deaths_in_a_row += 1
            if time.monotonic() - started > CALM_SECONDS:
                backoff.reset()
                self.deaths_in_a_row = 1
            delay = backoff.next()
            name, code = self.program.name, self._popen.returncode
            log.warning("%s ended with %s; starting it again in %.1f s", name, code, delay)
            await asyncio.sleep(delay)
            # Checked again: it may have been told to stop while it waited.
            if self._stopping:
                return
            self._spawn()

    async def _until_ended(self, popen: subprocess.Popen[bytes]) -> None:
        descriptor = open_pidfd(popen.pid) if popen.poll() is None else None
        if descriptor is not None:
            try:
                await until_readable(descriptor)
            finally:
                os.close(descriptor)
        popen.wait()

    def _spawn(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        parent, orphan = os.getpid(), int(self.program.orphan)

        def prepare() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, orphan, 0, 0, 0)
            if os.getppid() != parent:
                # The supervisor was killed between the fork and the line above.
                os.kill(os.getpid(), signal.SIGKILL)

        with self.log.open("ab") as output:
            # A session of its own: Ctrl-C in the terminal is for the supervisor, which ends the others in order.
            self._popen = subprocess.Popen(
                list(self.program.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._variables,
                start_new_session=True,
                preexec_fn=prepare,
            )
