"""More parts of the learning rule: each by hand, and as its baseline where it is that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shoal_workers.trainer.algorithm.advantages import Grpo
from shoal_workers.trainer.algorithm.cispo import Cispo
from shoal_workers.trainer.algorithm.correctors import TruncatedImportanceSampling
from shoal_workers.trainer.algorithm.gapo import Gapo
from shoal_workers.trainer.algorithm.gspo import Gspo
from shoal_workers.trainer.algorithm.losses import Loss, LossTokens
from shoal_workers.trainer.algorithm.m2po import SecondMomentMask
from shoal_workers.trainer.algorithm.ppo_clip import PpoClip
from shoal_workers.trainer.algorithm.reject_reweight import RejectAndReweight
from shoal_workers.trainer.algorithm.sft import Sft
from shoal_workers.trainer.algorithm.topr import Topr
from shoal_workers.trainer.algorithm.weighted_entropy import AdvantageEntropyTop
from tests.trainer.test_algorithm import tokens_of

VALUES = st.lists(st.floats(-3, 0), min_size=1, max_size=12).map(torch.tensor)


def gradient(loss: Loss, tokens: LossTokens) -> list[float]:
    """Of the loss by the log-probs."""
    (found,) = torch.autograd.grad(loss.compute(tokens).loss, tokens.logprobs)
    return [float(value) for value in found]


def test_gapo_by_hand() -> None:
    # Half of six is three: 0, 1, 2 is the shortest window of three, and its median 1.
    rewards = np.array([0.0, 1.0, 2.0, 10.0, 20.0, 30.0])
    distance = rewards - 1.0
    assert Gapo(epsilon=1e-12).advantages(rewards) == pytest.approx(distance / np.sqrt((distance**2).sum() / 5))
    assert Gapo().advantages(np.array([3.0])).tolist() == [0.0]
    assert Gapo().advantages(np.full(4, 0.7)).tolist() == [0.0] * 4


def test_gapo_is_grpo_where_the_densest_part_is_in_the_middle() -> None:
    rewards = np.array([-2.0, -0.1, 0.0, 0.1, 2.0])
    assert Gapo().advantages(rewards) == pytest.approx(Grpo().advantages(rewards))


def test_m2po_masks_the_fewest_and_farthest() -> None:
    trainer = torch.tensor([0.0, 0.1, -0.1, 1.0, -2.0])
    weights = SecondMomentMask(bound=0.04).weights(trainer, torch.zeros(5), torch.zeros(5, dtype=torch.long))
    assert weights.tolist() == pytest.approx([1.0, np.exp(0.1), np.exp(-0.1), 0.0, 0.0])


@given(trainer=VALUES, bound=st.floats(1e-3, 2))
def test_m2po_keeps_to_its_bound_and_is_tis_within_it(trainer: torch.Tensor, bound: float) -> None:
    behaviour, row = torch.full_like(trainer, -1.5), torch.zeros(len(trainer), dtype=torch.long)
    weights = SecondMomentMask(bound=bound).weights(trainer, behaviour, row)
    kept = weights > 0
    assert float(torch.cat([torch.zeros(1), weights[kept].log() ** 2]).sum()) <= bound * max(1, int(kept.sum())) + 1e-5
    if float(((trainer - behaviour) ** 2).mean()) <= bound * 0.999:
        assert torch.allclose(weights, TruncatedImportanceSampling(cap=1e9).weights(trainer, behaviour, row))


def test_a_vetoed_token_rejects_its_trajectory_alone() -> None:
    trainer, row = torch.tensor([-0.5, -20.0, -0.5, 1.0]), torch.tensor([0, 0, 1, 1])
    weights = RejectAndReweight(cap=2.0).weights(trainer, torch.zeros(4), row)
    assert weights.tolist() == pytest.approx([0.0, 0.0, np.exp(-0.5), 2.0])


def test_gspo_by_hand() -> None:
    one = tokens_of([1.5, 1.1, 0.9], [1.0, 1.0, -1.0])
    tokens = replace(one, row=torch.tensor([0, 0, 1]), share=torch.tensor([0.25, 0.25, 0.5]))
    ratio = (1.5 * 1.1) ** 0.5
    loose = Gspo(clip_low=0.5, clip_high=0.5).compute(tokens)
    assert float(loose.loss.detach()) == pytest.approx(-(0.5 * ratio - 0.5 * 0.9), rel=1e-5)
    tight = Gspo(clip_low=0.01, clip_high=0.02).compute(tokens)
    assert float(tight.loss.detach()) == pytest.approx(-(0.5 * 1.02 - 0.5 * 0.99), rel=1e-5)
    assert float(tight.figures["clip_fraction"]) == pytest.approx(1.0)


def test_gspo_of_single_tokens_is_ppo_clip() -> None:
    tokens = tokens_of([1.5, 1.1, 0.5], [1.0, -1.0, -2.0], [1.0, 0.5, 2.0])
    clips = {"clip_low": 0.2, "clip_high": 0.28}
    assert gradient(Gspo(**clips), tokens) == pytest.approx(gradient(PpoClip(**clips), tokens))


def test_cispo_bounds_a_ratio_and_silences_nobody() -> None:
    tokens = tokens_of([1.5, 0.5, 1.1], [1.0, -1.0, 2.0])
    assert gradient(Cispo(), tokens) == pytest.approx([-1.28 / 3, 0.5 / 3, -2.2 / 3], rel=1e-5)
    assert gradient(PpoClip(), tokens)[0] == 0.0


@pytest.mark.parametrize("loss", [Gspo(), Cispo(), Topr()])
def test_on_policy_every_loss_has_the_policy_gradient(loss: Loss) -> None:
    tokens = tokens_of([1.0, 1.0, 1.0], [1.0, -1.0, 0.5])
    assert gradient(loss, tokens) == pytest.approx(gradient(PpoClip(), tokens), rel=1e-5)


def test_topr_tapers_what_was_bad_alone() -> None:
    tokens = tokens_of([1.0] * 4, [1.0, 1.0, -1.0, -1.0], [0.1, 3.0, 0.1, 3.0])
    assert gradient(Topr(), tokens) == pytest.approx([-1 / 4, -1 / 4, 0.1 / 4, 1 / 4], rel=1e-5)


def test_imitation_looks_at_no_reward() -> None:
    tokens = tokens_of([1.0, 1.0], [0.0, -1.0])
    assert gradient(Sft(), tokens) == pytest.approx([-0.5, -0.5])
    assert (Sft().learns_without_advantage, PpoClip(kl=0.1).learns_without_advantage) == (True, False)


def test_tokens_are_chosen_by_what_is_at_stake() -> None:
    entropy, advantages = torch.tensor([2.0, 0.1, 1.0, 3.0]), torch.tensor([1.0, -9.0, -3.0, 0.0])
    turn = torch.arange(4)
    assert AdvantageEntropyTop(fraction=0.5).select(entropy, turn, advantages).tolist() == [True, False, True, False]
    assert bool(AdvantageEntropyTop(fraction=1).select(entropy, turn, advantages).all())
    assert AdvantageEntropyTop().select(entropy[:0], turn[:0], advantages[:0]).tolist() == []
