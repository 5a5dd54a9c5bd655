"""The learning rule's parts: formulas by hand, and the invariants that every strategy of a part must keep."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shoal.api.services.common import StrategyConfig
from shoal.api.services.roles.trainer import AlgorithmConfig
from shoal_workers.service import ConfigurationError
from shoal_workers.trainer.algorithm import LossTokens, learning_rule
from shoal_workers.trainer.algorithm.advantages import ADVANTAGES, Grpo, Rloo
from shoal_workers.trainer.algorithm.correctors import (
    CORRECTORS,
    MaskedImportanceSampling,
    TruncatedImportanceSampling,
)
from shoal_workers.trainer.algorithm.losses import Aggregation, shares
from shoal_workers.trainer.algorithm.ppo_clip import PpoClip
from shoal_workers.trainer.algorithm.selectors import SELECTORS, EntropyTop

REWARDS = st.lists(st.floats(-10, 10), min_size=1, max_size=16).map(np.array)
ESTIMATORS = [Grpo(), Grpo(normalize=False), Rloo()]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(rewards=REWARDS)
def test_advantages_sum_to_zero(estimator: Grpo | Rloo, rewards: np.ndarray) -> None:
    advantages = estimator.advantages(rewards)
    assert advantages.shape == rewards.shape
    assert abs(advantages.sum()) < 1e-6 * max(1.0, np.abs(advantages).sum())


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(reward=st.floats(-10, 10), size=st.integers(1, 16))
def test_a_flat_group_teaches_nothing(estimator: Grpo | Rloo, reward: float, size: int) -> None:
    assert np.abs(estimator.advantages(np.full(size, reward))).max() < 1e-9


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(rewards=st.lists(st.integers(-5, 5), min_size=2, max_size=12), shift=st.integers(-5, 5), data=st.data())
def test_advantages_follow_shifts_and_permutations(
    estimator: Grpo | Rloo, rewards: list[int], shift: int, data: st.DataObject
) -> None:
    array = np.array(rewards, dtype=float)
    order = np.array(data.draw(st.permutations(range(len(rewards)))))
    expected = estimator.advantages(array)
    assert np.allclose(estimator.advantages(array + shift), expected)
    assert np.allclose(estimator.advantages(array[order]), expected[order])


def test_grpo_by_hand() -> None:
    advantages = Grpo(epsilon=1e-9).advantages(np.array([1.0, 0.0, 0.0, 0.0]))
    assert advantages == pytest.approx([1.5, -0.5, -0.5, -0.5])
    assert Grpo().advantages(np.array([1.0])) == pytest.approx([0.0])


@given(rewards=REWARDS.filter(lambda rewards: len(rewards) > 1))
def test_rloo_is_grpo_without_its_scale(rewards: np.ndarray) -> None:
    size = len(rewards)
    plain = Grpo(normalize=False).advantages(rewards)
    assert np.allclose(Rloo().advantages(rewards), plain * size / (size - 1))
    others = [(rewards.sum() - reward) / (size - 1) for reward in rewards]
    assert np.allclose(Rloo().advantages(rewards), rewards - np.array(others))


LOGPROBS = st.lists(st.floats(-8, 0), min_size=1, max_size=12).map(lambda values: torch.tensor(values))


@pytest.mark.parametrize("name", CORRECTORS.names())
@given(logprobs=LOGPROBS)
def test_on_policy_tokens_weigh_one(name: str, logprobs: torch.Tensor) -> None:
    row = torch.zeros(len(logprobs), dtype=torch.long)
    assert torch.allclose(CORRECTORS.create(name, {}).weights(logprobs, logprobs, row), torch.ones(len(logprobs)))


@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
@given(trainer=LOGPROBS, shift=st.floats(-3, 3), cap=st.floats(1.1, 5))
def test_weights_stay_within_their_bounds(level: str, trainer: torch.Tensor, shift: float, cap: float) -> None:
    behaviour = trainer - shift
    row = torch.arange(len(trainer)) // 2
    truncated = TruncatedImportanceSampling(cap=cap, level=level).weights(trainer, behaviour, row)
    masked = MaskedImportanceSampling(cap=cap, level=level).weights(trainer, behaviour, row)
    assert bool(((truncated >= 0) & (truncated <= cap)).all())
    assert bool(((masked == 0) | ((masked >= 1 / cap - 1e-6) & (masked <= cap + 1e-6))).all())
    inside = masked > 0
    assert torch.allclose(masked[inside], truncated[inside])


def test_sequence_weights_by_hand() -> None:
    trainer, behaviour = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.2, -1.4, -1.0])
    row = torch.tensor([0, 0, 1])
    product = TruncatedImportanceSampling(cap=10, level="sequence").weights(trainer, behaviour, row)
    mean = TruncatedImportanceSampling(cap=10, level="geometric").weights(trainer, behaviour, row)
    assert product.tolist() == pytest.approx(np.exp([0.6, 0.6, 0.0]).tolist(), rel=1e-5)
    assert mean.tolist() == pytest.approx(np.exp([0.3, 0.3, 0.0]).tolist(), rel=1e-5)


def tokens_of(ratio: list[float], advantages: list[float], weights: list[float] | None = None) -> LossTokens:
    """Tokens of one row each, whose policy has `ratio` to the old one; of two words the first was picked."""
    old = torch.full((len(ratio),), 0.4).log()
    logprobs = (old + torch.tensor(ratio).log()).requires_grad_()
    other = torch.log1p(-logprobs.exp())
    row = torch.arange(len(ratio))
    return LossTokens(
        logprobs=logprobs,
        entropy=-(logprobs.exp() * logprobs + other.exp() * other),
        old_logprobs=old,
        advantages=torch.tensor(advantages),
        weights=torch.tensor(weights or [1.0] * len(ratio)),
        share=shares(row, row, "token"),
        row=row,
        trajectory=row,
    )


def test_ppo_clip_by_hand() -> None:
    tokens = tokens_of([1.5, 1.5, 0.5, 0.5, 1.1], [1.0, -1.0, 1.0, -1.0, 2.0], [1.0, 1.0, 1.0, 1.0, 0.5])
    result = PpoClip().compute(tokens)
    gains = [1.28, -1.5, 0.5, -0.8, 0.5 * 1.1 * 2.0]
    assert float(result.loss.detach()) == pytest.approx(-sum(gains) / 5, rel=1e-5)
    assert float(result.figures["clip_fraction"]) == pytest.approx(2 / 5)
    result.loss.backward()  # type: ignore[no-untyped-call]
    gradient = tokens.logprobs.grad
    assert gradient is not None
    assert gradient.tolist() == pytest.approx([0.0, 1.5 / 5, -0.5 / 5, 0.0, -1.1 / 5], rel=1e-5)


def test_kl_and_entropy_by_hand() -> None:
    tokens = tokens_of([1.0], [0.0])
    old = 0.4
    entropy = -(old * np.log(old) + (1 - old) * np.log(1 - old))
    assert float(PpoClip(entropy=0.5).compute(tokens).loss.detach()) == pytest.approx(-0.5 * entropy, rel=1e-5)
    full = replace(tokens, divergence=torch.tensor([0.25]))
    assert float(PpoClip(kl=2.0, kl_estimator="full").compute(full).loss.detach()) == pytest.approx(0.5)
    sampled = replace(tokens, reference=torch.tensor([0.5]).log())
    difference = np.log(0.5 / old)
    result = PpoClip(kl=2.0, kl_estimator="k3").compute(sampled)
    assert float(result.loss.detach()) == pytest.approx(2 * (np.exp(difference) - difference - 1), rel=1e-4)


def test_a_kl_term_without_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="no reference"):
        PpoClip(kl=0.1).compute(tokens_of([1.0], [0.0]))


AGGREGATIONS: list[Aggregation] = ["token", "sequence", "group"]


@given(row=st.lists(st.integers(0, 5), min_size=1, max_size=20), level=st.sampled_from(AGGREGATIONS))
def test_shares_make_a_mean(row: list[int], level: Aggregation) -> None:
    rows = torch.tensor(sorted(row))
    groups = rows // 2
    share = shares(rows, groups, level)
    assert float(share.sum()) == pytest.approx(1.0, abs=1e-5)
    counted = {"sequence": rows, "group": groups}.get(level)
    if counted is not None:
        totals = [float(share[counted == number].sum()) for number in counted.unique()]
        assert totals == pytest.approx([1 / len(totals)] * len(totals), abs=1e-5)


def test_constant_shares_do_not_depend_on_lengths() -> None:
    rows = torch.tensor([0, 1, 1, 1])
    assert shares(rows, rows, "constant", length=10).tolist() == pytest.approx([1 / 20] * 4)


@given(entropy=st.lists(st.floats(0, 3), min_size=1, max_size=20), fraction=st.floats(0.05, 1))
def test_entropy_top_takes_whole_turns_of_highest_entropy(entropy: list[float], fraction: float) -> None:
    values = torch.tensor(entropy).repeat_interleave(2)
    turn = torch.arange(len(entropy)).repeat_interleave(2)
    mask = EntropyTop(fraction=fraction).select(values, turn, torch.ones(len(turn)))
    assert int(mask.sum()) == 2 * max(1, round(fraction * len(entropy)))
    assert torch.equal(mask[::2], mask[1::2])
    if not bool(mask.all()):
        assert float(values[mask].min()) >= float(values[~mask].max())


def test_entropy_top_of_everything_is_all() -> None:
    entropy, turn = torch.rand(10), torch.arange(10)
    everything = SELECTORS.create("all", {}).select(entropy, turn, entropy)
    assert torch.equal(EntropyTop(fraction=1).select(entropy, turn, entropy), everything)


def test_wrong_names_and_parameters_are_refused_by_their_path() -> None:
    with pytest.raises(ConfigurationError, match=r"algorithm\.advantage\.name: 'gpro' is not known.*grpo, rloo"):
        ADVANTAGES.create("gpro", {})
    with pytest.raises(ConfigurationError, match=r"algorithm\.corrector\.parameters\.cap"):
        CORRECTORS.create("tis", {"cap": -1})
    with pytest.raises(ConfigurationError, match=r"algorithm\.loss\.parameters\.clipHihg"):
        learning_rule(AlgorithmConfig(loss=StrategyConfig(name="ppo-clip", parameters={"clipHihg": 1})))


def test_manifest_parameters_are_camel_case() -> None:
    loss = StrategyConfig(name="ppo-clip", parameters={"clipLow": 0.1, "klEstimator": "full", "kl": 0.03})
    rule = learning_rule(AlgorithmConfig(loss=loss))
    assert rule.loss == PpoClip(clip_low=0.1, kl_estimator="full", kl=0.03)
    assert rule.loss.reference == "full"
