"""An engine with a fake core as a process of its own, so that tests can kill it.

`python -m tests.engines.fake_process <gateway url> <name> <step seconds> <load seconds>` prints its URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from shoal.api.services.roles.engine import EngineConfig
from shoal_workers.engines.engine import Engine
from shoal_workers.engines.registration import Registration
from shoal_workers.engines.server import make_service
from shoal_workers.service import ServiceClient, credential, serving
from tests.engines.fakes import FakeCore


@dataclass
class FakeProcess:
    """A running engine."""

    name: str
    process: subprocess.Popen[str]

    def kill(self) -> None:
        """As a node that loses power."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def fake_process(
    gateway: str, name: str, step: float = 0.005, load: float = 0.0, token: str = ""
) -> Iterator[FakeProcess]:
    """Start one; it is ended with the block."""
    command = [sys.executable, "-m", "tests.engines.fake_process", gateway, name, str(step), str(load)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "SHOAL_TOKEN": token})
    try:
        yield FakeProcess(name, process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def main(gateway: str, name: str, step: float, load: float) -> None:
    """Serve until killed."""
    config = EngineConfig(type="Reference", model="none")
    engine = Engine(name, FakeCore(step_seconds=step, load_seconds=load))
    async with serving(make_service(config, engine, token=credential())) as url:
        client = ServiceClient(gateway, token=credential())
        async with Registration(engine, client, uid=f"uid-{name}", url=url, interval=0.1).running():
            print(url, flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
