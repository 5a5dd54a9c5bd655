"""The reference core: a token's log-prob is of the distribution that the token was drawn from."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from shoal.api.services.models import SamplingParameters
from shoal_workers.engines.core import Call, Finished
from shoal_workers.engines.reference import ReferenceCore
from tests.engines.scoring import trainer_logprobs
from tests.models import write_model

PROMPT = [5, 9, 13, 17]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("reference") / "model")


@pytest.fixture(scope="module")
def core(folder: Path) -> ReferenceCore:
    core = ReferenceCore(str(folder), 128)
    core.open()
    return core


def generate(core: ReferenceCore, *sampling: dict[str, Any]) -> list[Finished]:
    """Answers to one prompt that are drawn beside each other, in the order of `sampling`."""
    for key, each in enumerate(sampling):
        core.add(Call(str(key), PROMPT, SamplingParameters(**{"max_tokens": 12, "stop_token_ids": (0,)} | each)))
    finished: list[Finished] = []
    while core.unfinished:
        finished += core.step()
    return sorted(finished, key=lambda each: int(each.key))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_logprobs_are_the_trainers_at_the_temperature(core: ReferenceCore, folder: Path, temperature: float) -> None:
    for answer in generate(core, *[{"temperature": temperature, "seed": seed} for seed in range(4)]):
        expected = trainer_logprobs(folder, PROMPT, answer.tokens, temperature)
        assert answer.logprobs == pytest.approx(expected, abs=TOLERANCE)


def test_calls_of_all_kinds_beside_each_other(core: ReferenceCore, folder: Path) -> None:
    greedy, cold, cut, plain = generate(
        core, {"temperature": 0.0, "top_p": 0.1}, {"temperature": 0.5}, {"top_p": 1e-6}, {}
    )
    # Greedy tokens are drawn from nothing: theirs is the distribution as it is.
    for answer, temperature in ((greedy, 1.0), (cold, 0.5), (plain, 1.0)):
        expected = trainer_logprobs(folder, PROMPT, answer.tokens, temperature)
        assert answer.logprobs == pytest.approx(expected, abs=TOLERANCE)
    # A nucleus of one token leaves no choice.
    assert cut.tokens[0] == greedy.tokens[0]
    assert cut.logprobs == [0.0] * len(cut.tokens)


def test_below_top_p_1_logprobs_are_of_the_nucleus_and_what_is_drawn_follows_them(core: ReferenceCore) -> None:
    draws = 2000
    answers = generate(core, *[{"max_tokens": 1, "temperature": 0.7, "top_p": 0.6}] * draws)
    said = {answer.tokens[0]: math.exp(answer.logprobs[0]) for answer in answers}
    assert sum(said.values()) == pytest.approx(1.0, abs=1e-3)
    for token, count in Counter(answer.tokens[0] for answer in answers).items():
        # Five standard deviations of a share.
        assert abs(count / draws - said[token]) < 5 * math.sqrt(said[token] * (1 - said[token]) / draws) + 1e-9
    with torch.inference_mode():
        logits = core._last_logits([PROMPT])[0]
    probabilities = torch.softmax(logits / 0.7, -1)
    nucleus = float(probabilities[list(said)].sum())
    assert 0.6 <= nucleus < 1
    assert all(said[token] == pytest.approx(float(probabilities[token]) / nucleus, abs=1e-5) for token in said)
