"""The whole loop as processes, killed in the middle of the work: every trajectory is trained exactly once."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path
from typing import Any

import pytest

from shoal.api.services.report import RunReport
from shoal.api.services.trajectories import (
    Accepted,
    Batch,
    BatchAck,
    BatchRequest,
    DataStatus,
    ProgressReport,
)
from shoal_workers.service import ProblemError, ServiceClient
from tests.agent.stage import free_port
from tests.models import write_model

STEPS, GROUPS, SIZE, EPISODES = 6, 2, 4, 8
LAKE = {
    "protocol": "Gymnasium",
    "entrypoint": "FrozenLake-v1",
    "config": {
        "kwargs": {"is_slippery": False},
        "observation": {"template": "state {observation}"},
        "actions": {"left": 0, "down": 1, "right": 2, "up": 3},
        "invalidAction": {"reward": 0.0, "terminated": True},
    },
}


class Loop:
    """The processes of a job, but for the trainer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {role: free_port() for role in ("broker", "environment", "gateway", "engines", "data")}
        self.processes: dict[str, Process] = {}
        self.trained: list[str] = []

    def url(self, role: str) -> str:
        """Where a role listens."""
        return f"http://127.0.0.1:{self.ports[role]}"

    def config(self, role: str) -> dict[str, Any]:
        """The role's configuration."""
        model = str(self.folder / "model")
        configs: dict[str, dict[str, Any]] = {
            "broker": {"ttl": 3.0, "heartbeat": 0.5, "report_seconds": 0.3},
            "environment": {
                "environment": LAKE,
                "slots": 8,
                "broker_url": self.url("broker"),
                "report_seconds": 0.3,
            },
            "gateway": {"model": model},
            "engines": {"type": "Reference", "model": model, "gateway_url": self.url("gateway"), "max_model_len": 256},
            "data": {
                "folder": str(self.folder / "job"),
                "steps": STEPS,
                "batch_groups": GROUPS,
                "group_size": SIZE,
                "environments": ["lake"],
                "tasks": {"seeds": {"count": 50}},
                "max_staleness": 1,
                "zero_variance": "Keep",
                "max_turns": 4,
                "assignment_seconds": 4.0,
                "batch_seconds": 30.0,
                "max_consecutive_faults": 50,
                "evaluation": {"episodes": EPISODES},
            },
            "agent": {
                "model": model,
                "data_url": self.url("data"),
                "gateway_url": self.url("gateway"),
                "pools": [{"name": "lake", "broker_url": self.url("broker"), "credential": "pool-lake"}],
                "concurrency": 6,
                "max_turns": 4,
                "max_tokens_per_turn": 2,
                "max_model_len": 256,
            },
        }
        return configs[role] | ({"port": self.ports[role]} if role in self.ports else {"port": free_port()})

    async def start(self, role: str, name: str = "") -> None:
        """Start one process."""
        names = (
            "SHOAL_TOKEN",
            "SHOAL_TOKEN_DATA",
            "SHOAL_TOKEN_GATEWAY",
            "SHOAL_TOKEN_BROKER",
            "SHOAL_TOKEN_POOL_LAKE",
        )
        variables = os.environ | dict.fromkeys(names, "secret")
        variables |= {"SHOAL_CONFIG": json.dumps(self.config(role)), "POD_IP": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        variables |= {"POD_NAME": name or role, "POD_UID": f"uid-{name or role}"}
        self.processes[name or role] = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"shoal_workers.{role}", env=variables, stdout=DEVNULL, stderr=DEVNULL
        )

    async def kill(self, name: str) -> None:
        """SIGKILL."""
        process = self.processes.pop(name)
        process.kill()
        await process.wait()

    async def end(self) -> None:
        """End everything that runs."""
        for name in list(self.processes):
            await self.kill(name)

    def data(self) -> ServiceClient:
        """A client of the data manager."""
        return ServiceClient(self.url("data"), token="secret", retries=30)

    async def ready(self, role: str) -> None:
        """Wait until the role reports ready."""
        async with ServiceClient(self.url(role), retries=0) as client:
            for _ in range(600):
                try:
                    await client.call("GET", "/readyz")
                    return
                except ProblemError:
                    await asyncio.sleep(0.1)
        raise AssertionError(f"{role} is not ready")

    async def train(self, number: int, *, twice: bool = False) -> None:
        """One step of a trainer whose weights stay what they are."""
        async with self.data() as client:
            batch = await self.lease(client, number)
            assert len(batch.groups) == GROUPS
            for group in batch.groups:
                assert len(group.trajectories) == SIZE
                self.trained += [each.id for each in group.trajectories]
            ack = BatchAck(step=number, version=number)
            for _ in range(1 + twice):
                await client.post(f"/batches/{batch.id}:ack", ack, Accepted, idempotent=True)
            progress = ProgressReport(step=number, version=0)
            await client.call("POST", "/progress", progress, idempotent=True)

    async def lease(self, client: ServiceClient, number: int) -> Batch:
        """Wait for a batch, whatever happens to the data manager."""
        request = BatchRequest(trainer="trainer", version=0, groups=GROUPS, wait=5, key=f"step-{number}")
        for _ in range(24):
            reply = await client.call("POST", "/batches:lease", request, timeout=20, idempotent=True)
            if reply.status == 200:
                return reply.read(Batch)
        raise AssertionError(f"no batch: {await client.get('/status', DataStatus)}")


@pytest.mark.timeout(400)
async def test_exactly_once_while_everybody_is_killed(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    loop = Loop(tmp_path)
    try:
        for role in ("broker", "environment", "gateway", "engines", "data"):
            await loop.start(role)
        await asyncio.gather(*(loop.ready(role) for role in ("engines", "data", "broker")))
        for name in ("agent-0", "agent-1"):
            await loop.start("agent", name)
        await loop.train(1)
        await loop.kill("data")
        await loop.start("data")
        await loop.train(2, twice=True)
        await loop.kill("agent-0")
        await loop.train(3)
        await loop.kill("gateway")
        await loop.kill("data")
        await loop.start("gateway")
        await loop.start("data")
        await loop.start("agent", "agent-2")
        await loop.train(4)
        loop.processes["agent-1"].terminate()
        assert await asyncio.wait_for(loop.processes.pop("agent-1").wait(), 20) == 0
        await loop.train(5)
        await loop.train(6)
        async with loop.data() as client:
            for _ in range(300):
                status = await client.get("/status", DataStatus)
                if status.complete:
                    break
                await asyncio.sleep(0.1)
            report = await client.get("/report", RunReport)
        assert status.complete, status
        assert not status.halted
        assert report.proof.holds
        assert len(loop.trained) == len(set(loop.trained)) == STEPS * GROUPS * SIZE == report.proof.trained
        assert [(point.purpose, point.episodes) for point in report.evaluations] == [
            ("initial", EPISODES),
            ("final", EPISODES),
        ]
        assert [point.trajectories for point in report.steps] == [GROUPS * SIZE] * STEPS
        assert (tmp_path / "job" / "report" / "report.json").is_file()
    finally:
        await loop.end()
