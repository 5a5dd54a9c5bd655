"""The trainer as a pod runs it: a process of its own, with Ray."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from shoal.api.services.roles.trainer import TrainerConfig
from shoal.api.services.training import TrainerStatus
from tests.trainer.settings import until

MARK = "SHOAL_TRAINER_TEST"
END_SECONDS = 40.0


def commands(pid: int) -> str:
    """What the process is, as far as can be seen."""
    try:
        return f"{pid} {Path('/proc', str(pid), 'cmdline').read_bytes()[:80]!r}"
    except OSError:
        return str(pid)


class TrainerProcess:
    """One process and everything that it starts, which inherits the mark in its environment."""

    def __init__(self, process: asyncio.subprocess.Process, mark: str) -> None:
        self.process = process
        self._mark = f"{MARK}={mark}".encode()

    def alive(self) -> list[int]:
        """The processes with the mark that are not zombies."""
        return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal() and self._marked(path)]

    async def end(self) -> int:
        """Ask the process to end, wait until it and all that it started are gone; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = await self.process.wait()
        try:
            await until(lambda: not self.alive(), END_SECONDS)
        except AssertionError:
            raise AssertionError(f"still there: {[commands(pid) for pid in self.alive()]}") from None
        return status

    async def kill(self) -> None:
        """Kill the process itself and nothing else, as the kernel or a person would."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def clear(self) -> None:
        """Leave nothing, however the test went."""
        await self.kill()
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _marked(self, path: Path) -> bool:
        try:
            return self._mark in (path / "environ").read_bytes().split(b"\0")
        except OSError:
            return False


@contextlib.asynccontextmanager
async def trainer_process(config: TrainerConfig, mark: str, leave: bool = False) -> AsyncIterator[TrainerProcess]:
    """A running trainer; killed when the block ends, and what it started as well unless it is to be left."""
    environment = {**os.environ, "SHOAL_CONFIG": config.model_dump_json(), "POD_IP": "127.0.0.1", MARK: mark}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "shoal_workers.trainer", env=environment)
    trainer = TrainerProcess(process, mark)
    try:
        yield trainer
    finally:
        await (trainer.kill() if leave else trainer.clear())


async def status_of(port: int) -> TrainerStatus:
    """What the trainer says of itself."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/status") as response:
        return TrainerStatus.model_validate(json.loads(await response.read()))
