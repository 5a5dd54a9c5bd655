"""The trainer as a driver from outside, on a real Ray cluster: what it is on a RayCluster of KubeRay's."""

import asyncio
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shoal_workers.service import serving
from shoal_workers.trainer import publish, strays
from tests.models import write_model
from tests.trainer.fakes import FakeDataManager, FakeGateway
from tests.trainer.process import trainer_process
from tests.trainer.settings import trainer_config, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
START_SECONDS = 240.0


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@asynccontextmanager
async def ray_head() -> AsyncIterator[str]:
    """A head as KubeRay starts one, with this process's RAY_AUTH_ variables.

    Yields the address for drivers from outside. Everything of it ends with the block.
    """
    port, client = free_ports(2)
    folder = tempfile.mkdtemp(prefix="ray-")
    mark = f"test-{os.getpid()}-{port}"
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}",
        f"--ray-client-server-port={client}", "--node-ip-address=127.0.0.1", "--include-dashboard=false",
        "--num-cpus=2", "--object-store-memory=100000000", f"--temp-dir={folder}", "--disable-usage-stats",
    ]  # fmt: skip
    environment = {**os.environ, strays.VARIABLE: mark}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=-3, start_new_session=True)
    try:
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not _listens(client):
            assert process.returncode is None, "the head ended"
            assert asyncio.get_running_loop().time() < deadline, "the head does not listen"
            await asyncio.sleep(0.2)
        yield f"ray://127.0.0.1:{client}"
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()
        strays.sweep(mark)
        shutil.rmtree(folder, ignore_errors=True)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_a_job_trains_on_a_cluster_that_it_is_no_node_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The two variables that KubeRay gives its pods, and Shoal the trainer's, where a RayCluster asks for a token.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    write_model(tmp_path / "model")
    (port,) = free_ports(1)
    data, gateway = FakeDataManager(total=2), FakeGateway()
    async with ray_head() as address, serving(data.service()) as data_url, serving(gateway.service()) as gateway_url:
        services = {"data_url": data_url, "gateway_url": gateway_url}
        config = trainer_config(tmp_path, **services, steps=2, port=port, ray_address=address)
        async with trainer_process(config, str(port)) as trainer:
            await until(lambda: len(data.reports) == 3 and gateway.targets[-1].version == 2, START_SECONDS)
            assert await trainer.end() == 0
    assert data.consumed == ["b0", "b1"]
    assert publish.latest(tmp_path / "versions", config.run) == gateway.targets[-1]
