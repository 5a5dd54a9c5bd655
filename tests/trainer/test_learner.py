"""One step of the learner: against a plain re-statement of the formula, and against what must not change it."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from shoal.api.services.trajectories import TrainGroup
from shoal_workers.service import ConfigurationError
from shoal_workers.trainer.algorithm import learning_rule
from shoal_workers.trainer.learner import Learner
from shoal_workers.trainer.model import load_model
from tests.models import write_model
from tests.trainer.fakes import trajectory, two_armed
from tests.trainer.settings import trainer_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model in it."""
    path = tmp_path_factory.mktemp("learner")
    write_model(path / "model")
    return path


def make(folder: Path, **changes: Any) -> Learner:
    """A learner on a fresh copy of the model."""
    config = trainer_config(folder, **changes)
    learner = Learner(load_model(config.model, config.dtype), learning_rule(config.algorithm), config)
    learner.remember(0)
    return learner


def score(learner: Learner, prompt: list[int], answer: list[int], temperature: float = 1.0) -> list[float]:
    """Log-probs of the answer's tokens, one plain forward pass."""
    with torch.no_grad():
        logits = learner.model(torch.tensor([prompt + answer])).logits[0]
    every = torch.log_softmax(logits / temperature, -1)
    return [float(every[len(prompt) - 1 + index, token]) for index, token in enumerate(answer)]


def sampled(
    learner: Learner, version: int = 0, lengths: tuple[int, ...] = (2, 5, 3, 7), temperature: float = 1.0
) -> list[TrainGroup]:
    """A group of answers of different lengths with the log-probs that these weights give them."""
    rows = []
    for index, length in enumerate(lengths):
        answer = [(7 * index + 3 * place) % 40 + 5 for place in range(length)]
        logprobs = score(learner, [3, 4, 5], answer, temperature)
        rows.append(trajectory(f"t{index}", float(index % 2), [3, 4, 5], answer, logprobs, version))
    return [TrainGroup(id="g", task_id="t", trajectories=rows)]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_step_is_the_formula(folder: Path, temperature: float) -> None:
    learner = make(folder, temperature=temperature)
    groups = sampled(learner, temperature=temperature)
    twin = copy.deepcopy(learner.model)
    figures = learner.train(groups, step=0, version=0)

    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    total, count = torch.zeros(()), 0
    for row in groups[0].trajectories:
        ids = torch.tensor([row.segments[0].token_ids])
        every = torch.log_softmax(twin(ids).logits[0, :-1] / temperature, -1).gather(-1, ids[0, 1:, None])[2:, 0]
        advantage = (row.reward - 0.5) / (3**-0.5 + 1e-4)
        ratio = (every - every.detach()).exp()
        total = total - (ratio * advantage).sum()
        count += len(every)
    loss = total / count
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
    optimizer.step()

    assert figures["loss"] == pytest.approx(float(loss.detach()), abs=1e-5)
    assert figures["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    # Not the weights: Adam's first update is nearly a gradient's sign, and rounding of the smallest shows in it.
    moments = learner.state()["moments"]
    for name, value in twin.named_parameters():
        expected = optimizer.state[value]["exp_avg"]
        assert torch.allclose(moments[name]["exp_avg"], expected, atol=1e-6), name


def test_figures_say_what_the_batch_was_like(folder: Path) -> None:
    learner = make(folder)
    figures = learner.train(sampled(learner), step=0, version=0)
    assert figures["reward"] == 0.5
    assert figures["tokens"] == 17
    assert figures["trajectories"] == 4
    assert figures["turns"] == 4
    assert figures["staleness_max"] == 0
    assert figures["effective_share"] == pytest.approx(1.0)
    assert 0 < figures["entropy"] <= math.log(64)
    assert figures["clip_fraction"] == 0


def test_rewarded_answers_become_likelier(folder: Path) -> None:
    learner = make(folder, steps=10)
    before = score(learner, [3, 4], [6])[0]
    for step in range(10):
        learner.train(two_armed(step), step, step)
        learner.remember(step + 1)
    assert score(learner, [3, 4], [6])[0] > before + 0.5


def test_micro_batches_change_nothing(folder: Path) -> None:
    whole, split = make(folder), make(folder, micro_batch_rows=1)
    groups = sampled(whole)
    first, second = whole.train(groups, 0, 0), split.train(groups, 0, 0)
    assert first["loss"] == pytest.approx(second["loss"], abs=1e-5)
    assert first["entropy"] == pytest.approx(second["entropy"], rel=1e-4)
    for name, value in whole.model.state_dict().items():
        assert torch.allclose(split.model.state_dict()[name], value, atol=2e-4), name


def test_every_epoch_and_minibatch_is_an_update(folder: Path) -> None:
    learner = make(folder, epochs=3, minibatches=2)
    learner.train(sampled(learner), 0, 0)
    steps = {int(state["step"]) for state in learner.state()["moments"].values()}
    assert steps == {6}


def test_engine_and_trainer_agree_on_every_version_that_is_remembered(folder: Path) -> None:
    learner = make(folder, verify_versions=3)
    old = sampled(learner, version=0)
    assert learner.train(sampled(learner), 0, 0)["logprob_gap"] < 1e-5
    learner.remember(1)
    mixed = [TrainGroup(id="m", task_id="t", trajectories=[*old[0].trajectories, *sampled(learner, 1)[0].trajectories])]
    figures = learner.train(mixed, 1, 1)
    assert figures["logprob_checked"] == 1.0
    assert figures["logprob_gap"] < 1e-5
    assert figures["staleness_max"] == 1


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_ratios_are_of_the_temperature_that_tokens_were_drawn_at(folder: Path, temperature: float) -> None:
    loss = {"name": "ppo-clip", "parameters": {"kl": 0.1, "klEstimator": "full"}}
    learner = make(folder, temperature=temperature, algorithm={"loss": loss})
    old = sampled(learner, version=0, temperature=temperature)
    figures = learner.train(old, 0, 0)
    assert figures["logprob_gap"] < 1e-5
    assert figures["weight_mean"] == pytest.approx(1.0, abs=1e-4)
    assert figures["reference_kl"] == pytest.approx(0.0, abs=1e-5)
    learner.remember(1)
    # Now version 0 is scored by the weights that are remembered.
    figures = learner.train(old, 1, 1)
    assert (figures["logprob_checked"], figures["logprob_gap"] < 1e-5) == (1.0, True)
    assert learner.train(sampled(learner, version=0), 2, 1)["logprob_gap"] > 1e-2


def test_a_missed_update_shows_as_a_gap(folder: Path) -> None:
    learner = make(folder)
    stale = sampled(learner, version=1)
    learner.train(sampled(learner), 0, 0)
    learner.remember(1)
    assert learner.train(stale, 1, 1)["logprob_gap"] > 1e-2


def test_forgotten_versions_are_not_compared(folder: Path) -> None:
    learner = make(folder, verify_versions=1)
    old = sampled(learner, version=0)
    learner.train(old, 0, 0)
    learner.remember(1)
    assert learner.train(old, 1, 1)["logprob_checked"] == 0.0


def test_kl_holds_the_policy_near_the_original(folder: Path) -> None:
    def distance(kl: float) -> float:
        loss = {"name": "ppo-clip", "parameters": {"kl": kl, "klEstimator": "full"}}
        learner = make(folder, steps=10, algorithm={"loss": loss})
        before = score(learner, [3, 4], [6])[0]
        for step in range(10):
            figures = learner.train(two_armed(step), step, step)
        assert ("reference_kl" in figures) == (kl > 0)
        return score(learner, [3, 4], [6])[0] - before

    assert distance(5.0) < distance(0.0)


def test_a_state_goes_on_exactly_where_it_was_taken(folder: Path) -> None:
    one, other = make(folder, minibatches=2), make(folder, minibatches=2)
    groups = sampled(one)
    one.train(groups, 0, 0)
    other.load(one.state())
    one.train(groups, 1, 1)
    other.train(groups, 1, 1)
    for name, value in one.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value), name


@pytest.mark.parametrize("changes", [{"max_model_len": 16}, {}])
def test_a_batch_with_nothing_to_learn_from_changes_nothing(folder: Path, changes: dict[str, Any]) -> None:
    learner = make(folder, optimizer={"learning_rate": 1e-2, "weight_decay": 0.1}, **changes)
    learner.train(sampled(learner), 0, 0)
    before = copy.deepcopy(learner.state())
    too_long = [trajectory(str(index), float(index), [3] * 16, [4], [-1.0]) for index in range(2)]
    unsampled = [trajectory(str(index), float(index), [3] * 16, [], []) for index in range(2)]
    group = TrainGroup(id="g", task_id="t", trajectories=too_long if changes else unsampled)
    figures = learner.train([group], 1, 1)
    assert (figures["tokens_trained"], figures["tokens"], figures["turns"]) == (0, 0, 0)
    assert figures["segments_too_long"] == (2 if changes else 0)
    assert (figures["reward"], figures["trajectories"], figures["flat_groups"]) == (0.5, 2, 0)
    assert all(math.isfinite(value) for value in figures.values()), figures
    after = learner.state()
    for name, value in before["model"].items():
        assert torch.equal(after["model"][name], value), name
    assert str(after["moments"]) == str(before["moments"])
    assert torch.equal(after["generator"], before["generator"])


def equally_rewarded(index: int) -> TrainGroup:
    """A group that says nothing of what is better."""
    group = two_armed(index)[0]
    rows = [row.model_copy(update={"reward": 1.0}) for row in group.trajectories]
    return group.model_copy(update={"trajectories": rows})


@pytest.mark.parametrize("corrector", [{"name": "tis"}, {"name": "tis", "parameters": {"level": "sequence"}}])
def test_equal_rewards_move_nothing(folder: Path, corrector: dict[str, Any]) -> None:
    loss = {"name": "ppo-clip", "parameters": {"kl": 0.1, "klEstimator": "full", "entropy": 0.01}}
    changes: dict[str, Any] = {"algorithm": {"loss": loss, "corrector": corrector}, "minibatches": 2}
    learner = make(folder, optimizer={"learning_rate": 1e-2, "weight_decay": 0.1}, **changes)
    learner.train(two_armed(0), 0, 0)
    before = copy.deepcopy(learner.state())
    flat = two_armed(1)[0]
    flat = flat.model_copy(
        update={"trajectories": [row.model_copy(update={"reward": 1.0}) for row in flat.trajectories]}
    )
    figures = learner.train([flat], 1, 1)
    assert (figures["flat_groups"], figures["tokens_trained"], figures["updates_skipped"]) == (1.0, 0.0, 0.0)
    after = learner.state()
    assert all(torch.equal(after["model"][name], value) for name, value in before["model"].items())
    assert str(after["moments"]) == str(before["moments"])


def test_a_flat_group_changes_nothing_of_what_another_teaches(folder: Path) -> None:
    loss = {"name": "ppo-clip", "parameters": {"kl": 0.1, "klEstimator": "full"}}
    one, other = (make(folder, algorithm={"loss": loss}) for _ in range(2))
    flat = two_armed(1)[0]
    flat = flat.model_copy(
        update={"trajectories": [row.model_copy(update={"reward": 1.0}) for row in flat.trajectories]}
    )
    first, second = one.train(two_armed(0), 0, 0), other.train([*two_armed(0), flat], 0, 0)
    assert second["loss"] == pytest.approx(first["loss"], abs=1e-6)
    assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-4)


def test_what_is_too_long_does_not_keep_the_rest_from_being_learned(folder: Path) -> None:
    learner, twin = make(folder, max_model_len=16), make(folder)
    rows = sampled(learner)[0].trajectories
    long = trajectory("long", 0.5, [3] * 16, [4], [-1.0])
    figures = learner.train([TrainGroup(id="g", task_id="t", trajectories=[*rows, long])], 0, 0)
    assert (figures["segments_too_long"], figures["tokens_trained"]) == (1, 17)
    assert math.isfinite(figures["loss"])
    assert twin.train([TrainGroup(id="g", task_id="t", trajectories=rows)], 0, 0)["segments_too_long"] == 0


def test_a_gradient_that_is_no_number_leaves_everything_as_it_was(folder: Path) -> None:
    learner = make(folder, optimizer={"learning_rate": 1e-2, "weight_decay": 0.1})
    learner.train(two_armed(0), 0, 0)
    before = copy.deepcopy(learner.state())
    poisoned = two_armed(0)
    poisoned[0].trajectories[0].segments[0].logprobs[-1] = float("nan")
    figures = learner.train(poisoned, 1, 1)
    assert (figures["updates_skipped"], figures["logprob_gap"]) == (1, 1e9)
    assert all(math.isfinite(value) for value in figures.values())
    after = learner.state()
    assert all(torch.equal(after["model"][name], value) for name, value in before["model"].items())
    assert str(after["moments"]) == str(before["moments"])
    assert learner.train(two_armed(0), 2, 2)["updates_skipped"] == 0


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"model: .*/nothing has no config\.json"):
        load_model(str(tmp_path / "nothing"), "auto")
