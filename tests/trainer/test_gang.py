"""Several processes with a shard of the weights each train as one process does."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing

from shoal.api.services.trajectories import TrainGroup
from shoal_workers.trainer.algorithm import learning_rule
from shoal_workers.trainer.gang import Gang, join
from shoal_workers.trainer.learner import Learner
from shoal_workers.trainer.model import load_model
from tests.models import write_model
from tests.trainer.fakes import trajectory
from tests.trainer.settings import trainer_config

STEPS = 2
LOSS = {"name": "ppo-clip", "parameters": {"kl": 0.1, "klEstimator": "full", "entropy": 0.01}}


def _groups(step: int) -> list[TrainGroup]:
    dice = random.Random(step)

    def row(group: int, place: int) -> list[int]:
        return [dice.randint(5, 50) for _ in range(dice.randint(1, 30))]

    return [
        TrainGroup(
            id=str(group),
            task_id="t",
            trajectories=[
                trajectory(f"{group}-{place}", float(place % 2), [3, 4, 5 + group], answer, [-2.0] * len(answer))
                for place in range(3)
                for answer in [row(group, place)]
            ],
        )
        for group in range(3)
    ]


def _train(rank: int, size: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    gang = join(rank, size, "127.0.0.1", port) if size > 1 else Gang()
    # As many micro-batches as not every process gets one of each time.
    config = trainer_config(
        folder,
        tokens_per_micro_batch=64,
        minibatches=2,
        optimizer={"learning_rate": 1e-3},
        algorithm={"loss": LOSS},
    )
    learner = Learner(load_model(config.model, config.dtype), learning_rule(config.algorithm), config, gang)
    if size > 1:
        # What one process saved goes on in several.
        learner.load(torch.load(folder / "begin.pt", weights_only=True))
    else:
        torch.save(learner.state(), folder / "begin.pt")
    learner.remember(0)
    figures: dict[str, float] = {}
    for step in range(STEPS):
        figures = learner.train(_groups(step), step, step)
        learner.remember(step + 1)
    state = learner.state()
    if gang.leads:
        torch.save((state, figures), folder / f"end-{size}.pt")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _train(0, 1, tmp_path, 0)
    multiprocessing.spawn(_train, (2, tmp_path, port), nprocs=2)  # type: ignore[no-untyped-call]
    (one, figures), (two, others) = (torch.load(tmp_path / f"end-{size}.pt", weights_only=True) for size in (1, 2))
    for name, value in one["model"].items():
        assert float((two["model"][name] - value).abs().max()) <= 1e-6, name
    for name, parts in one["moments"].items():
        assert float((two["moments"][name]["exp_avg"] - parts["exp_avg"]).abs().max()) <= 1e-6, name
    for name in ("loss", "entropy", "reference_kl", "logprob_gap", "grad_norm"):
        assert others[name] == pytest.approx(figures[name], abs=1e-5), name
