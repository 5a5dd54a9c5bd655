"""Runs of containers as families of processes that outlive the node and whose end it learns all the same.

Each run has a small shell as its first process (the shim). It stays when the node is killed, notes the exit code of
the container's main process in a file, and adopts what that leaves behind (it is a "child subreaper"), so that the
whole family can be found as its descendants, processes with sessions of their own included. Then it waits to be ended.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal_embedded.node.failures import StartError
from shoal_embedded.node.procfs import (
    ProcessId,
    all_processes,
    descendants,
    identify,
    is_alive,
    kill_all,
    read_process,
)

# $0 is the run file. The container's output goes to the log, the shell's own words ("Killed") nowhere.
_MAIN = 'echo $$ > "$0"; exec "$@"'
_SHIM = f'/bin/sh -c \'{_MAIN}\' "$0" "$@" 2>&1; echo $? > "$0.exit"; exec >/dev/null sleep 2147483647'

LOST_EXIT_CODE = 137
"""Exit code of a container whose end nobody saw (the machine was restarted): as if killed."""

TERMINATED_EXIT_CODE = 143
"""Exit code of a container that SIGTERM has ended."""

_PR_SET_CHILD_SUBREAPER = 36
_START_SECONDS = 10.0
"""The shim writes the main process's number within milliseconds; on a machine that swaps it may take seconds."""
_EXIT_FILE_SECONDS = 5.0
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Launch:
    """What to run: `run_file` is unique to this run; `log` takes its output."""

    command: Sequence[str]
    variables: Mapping[str, str]
    folder: str
    log: Path
    run_file: Path


class Run:
    """One run of a container, started here or found again."""

    def __init__(
        self, shim: ProcessId, main: int | None, run_file: Path, popen: subprocess.Popen[bytes] | None
    ) -> None:
        self.shim = shim
        self._main = main
        self._run_file = run_file
        self._popen = popen
        self._pidfd = open_pidfd(main)

    async def ended(self) -> int:
        """Wait for the main process to end and every process it left behind to be gone; return its exit code."""
        try:
            if self._pidfd is not None:
                await until_readable(self._pidfd)
            code = await self._exit_code()
            await self._sweep()
            return code
        finally:
            self.close()

    def close(self) -> None:
        """Stop watching; the processes go on."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def signal(self, how: signal.Signals) -> None:
        """Signal the main process, as a container runtime does; nothing when it has ended."""
        if self._pidfd is not None:
            try:
                signal.pidfd_send_signal(self._pidfd, how)
            except ProcessLookupError:
                return

    def kill(self) -> None:
        """Kill the main process and every descendant at once."""
        family = [process.identity for process in descendants(all_processes(), self.shim.pid)]
        self.signal(signal.SIGKILL)
        kill_all(family, signal.SIGKILL)

    async def _exit_code(self) -> int:
        path = Path(f"{self._run_file}.exit")
        for _ in range(int(_EXIT_FILE_SECONDS / 0.01)):
            text = path.read_text() if path.exists() else ""
            if text.endswith("\n"):
                return int(text)
            if not is_alive(self.shim):
                break
            await asyncio.sleep(0.01)
        return LOST_EXIT_CODE

    async def _sweep(self) -> None:
        while is_alive(self.shim):
            family = descendants(all_processes(), self.shim.pid)
            if not family:
                break
            kill_all([process.identity for process in family], signal.SIGKILL)
            await asyncio.sleep(0.01)
        kill_all([self.shim], signal.SIGKILL)
        if self._popen is not None:
            # It was killed a moment ago; this only takes its remains from the process table.
            self._popen.wait()


async def launch(plan: Launch) -> Run:
    """Start a run and return once its main process exists. Raises `StartError`."""
    plan.run_file.parent.mkdir(parents=True, exist_ok=True)
    for stale in (plan.run_file, Path(f"{plan.run_file}.exit")):
        stale.unlink(missing_ok=True)
    if not Path(plan.folder).is_dir():
        raise StartError(f"workingDir {plan.folder}: no such directory")
    popen = _start_shim(plan)
    shim = identify(popen.pid)
    if shim is None:
        raise StartError(f"{plan.command[0]}: the shell around it ended at once with {popen.wait()}")
    main = await _main_of(shim, plan.run_file)
    return Run(shim, main, plan.run_file, popen)


def adopt(shim: ProcessId, run_file: Path) -> Run | None:
    """Find a run again that another node started; None when it is gone without having left an exit code."""
    alive = is_alive(shim)
    if not alive and not Path(f"{run_file}.exit").exists():
        return None
    main = _read_number(run_file)
    process = read_process(main) if main is not None and alive else None
    # The number may belong to another process by now; the run's own is the shim's child.
    mine = main if process is not None and process.parent == shim.pid else None
    return Run(shim, mine, run_file, None)


def _start_shim(plan: Launch) -> subprocess.Popen[bytes]:
    with plan.log.open("ab") as log:
        try:
            return subprocess.Popen(
                ["/bin/sh", "-c", _SHIM, str(plan.run_file), *plan.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.DEVNULL,
                cwd=plan.folder,
                env=dict(plan.variables),
                start_new_session=True,
                preexec_fn=_become_subreaper,
            )
        except OSError as error:
            raise StartError(f"{plan.command[0]}: {error}") from error


async def _main_of(shim: ProcessId, run_file: Path) -> int | None:
    for _ in range(int(_START_SECONDS / 0.002)):
        number = _read_number(run_file)
        if number is not None or not is_alive(shim):
            return number
        await asyncio.sleep(0.002)
    return None


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text()
    except OSError:
        return None
    return int(text) if text.endswith("\n") else None


def _become_subreaper() -> None:
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def open_pidfd(pid: int | None) -> int | None:
    """Open a descriptor that becomes readable when the process ends; None when it has ended."""
    if pid is None:
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


async def until_readable(descriptor: int) -> None:
    """Wait until a descriptor is readable."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def set_ended() -> None:
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(descriptor, set_ended)
    try:
        await ended
    finally:
        loop.remove_reader(descriptor)
