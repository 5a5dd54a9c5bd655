"""The trainer's process with its own Ray head: it trains, ends cleanly, and survives SIGKILL."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from shoal.api.services.training import TrainerPhase
from shoal_workers.service import serving
from shoal_workers.trainer import checkpoint, publish
from tests.models import write_model
from tests.trainer.fakes import FakeDataManager, FakeGateway
from tests.trainer.process import status_of, trainer_process
from tests.trainer.settings import trainer_config, until

pytestmark = pytest.mark.timeout(300)
START_SECONDS = 120.0


def free_port() -> int:
    """A port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def updates(folder: Path) -> int:
    """Optimizer updates that the newest checkpoint's weights have had."""
    found = checkpoint.newest(folder / "checkpoints")
    assert found is not None
    steps = {int(state["step"]) for state in found[1]["moments"].values()}
    assert len(steps) == 1
    return steps.pop()


async def test_a_job_in_ray_ends_with_its_weights_published_and_nothing_left(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    data, gateway, port = FakeDataManager(total=3), FakeGateway(), free_port()
    async with serving(data.service()) as data_url, serving(gateway.service()) as gateway_url:
        config = trainer_config(tmp_path, data_url=data_url, gateway_url=gateway_url, steps=3, port=port)
        async with trainer_process(config, str(port)) as trainer:
            await until(lambda: len(data.reports) == 4 and gateway.targets[-1].version == 3, START_SECONDS)
            status = await status_of(port)
            assert (status.phase, status.step, status.version) == (TrainerPhase.DONE, 3, 3)
            assert status.busy_seconds > 0
            assert await trainer.end() == 0
    assert data.consumed == ["b0", "b1", "b2"]
    assert updates(tmp_path) == 3
    target = publish.latest(tmp_path / "versions", config.run)
    assert target == gateway.targets[-1]


@pytest.mark.slow
async def test_a_trainer_killed_in_the_middle_of_a_step_trains_nothing_twice(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    data, gateway, port = FakeDataManager(total=6), FakeGateway(), free_port()
    async with serving(data.service()) as data_url, serving(gateway.service()) as gateway_url:
        config = trainer_config(tmp_path, data_url=data_url, gateway_url=gateway_url, steps=6, port=port)
        async with trainer_process(config, "first", leave=True) as trainer:
            await until(lambda: len(data.consumed) >= 2 and bool(data.leased), START_SECONDS)
            await trainer.kill()
        assert len(data.consumed) + len(data.pending) + len(data.leased) == 6
        async with trainer_process(config, "second") as successor:
            await until(lambda: len(data.consumed) == 6 and gateway.targets[-1].version == 6, START_SECONDS)
            assert trainer.alive() == []
            assert await successor.end() == 0
    assert sorted(data.consumed) == [f"b{index}" for index in range(6)]
    assert updates(tmp_path) == 6
    versions = [report.version for report in data.reports]
    assert versions == sorted(versions)


@pytest.mark.slow
async def test_a_wrong_algorithm_ends_the_process_with_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "model")
    log = tmp_path / "last-words"
    monkeypatch.setenv("SHOAL_TERMINATION_LOG", str(log))
    config = trainer_config(tmp_path, algorithm={"advantage": {"name": "gpro"}}, port=free_port())
    async with trainer_process(config, str(config.port)) as trainer:
        assert await trainer.process.wait() == 2
    assert log.read_text() == "trainer: algorithm.advantage.name: 'gpro' is not known; there are: grpo, rloo"
