"""Weights on trial: what passes, what is quarantined, and what engines aim at meanwhile."""

from __future__ import annotations

import pytest

from shoal.api.services.models import WeightsTarget
from shoal_workers.gateway.trial import Trial


def weights(version: int, run: str = "r", checksum: str = "") -> WeightsTarget:
    return WeightsTarget(version=version, path=f"/v/{version}", run=run, checksum=checksum)


@pytest.mark.parametrize(
    ("problems", "quarantined"),
    [
        (["weights-refused"], True),
        (["weights-unusable"], False),
        (["weights-unusable", "weights-unusable"], True),
        (["engine-lost"], False),
        (["weights-unusable", "engine-lost"], False),
        (["engine-lost", "engine-not-ready"], True),
        (["weights-failed", "update-failed"], True),
    ],
)
def test_what_it_takes_to_be_quarantined(problems: list[str], quarantined: bool) -> None:
    trial = Trial().passed(weights(1))
    for problem in problems:
        assert trial.aim(weights(2)) == weights(2)
        trial = trial.failed(weights(2), problem, f"because {problem}")
    assert bool(trial.quarantined(weights(2))) is quarantined
    assert trial.aim(weights(2)) == weights(1 if quarantined else 2)
    if quarantined:
        assert trial.quarantined(weights(2)) == f"because {problems[-1]}"


def test_another_version_of_the_same_number_has_a_trial_of_its_own() -> None:
    trial = Trial().failed(weights(2, checksum="a"), "weights-refused", "bad")
    assert trial.quarantined(weights(2, checksum="a")) == "bad"
    assert trial.quarantined(weights(2, checksum="b")) == ""
    assert trial.quarantined(weights(2, "s", "a")) == ""


def test_a_run_never_falls_back_on_another_runs_weights() -> None:
    trial = Trial().passed(weights(5, "before")).failed(weights(1), "weights-refused", "bad")
    assert trial.aim(weights(1)) is None
    assert trial.most(weights(1)) == 0


def test_one_engine_tries_and_all_follow() -> None:
    trial = Trial()
    assert trial.most(weights(1)) == 1
    trial = trial.passed(weights(1))
    assert trial.most(weights(1)) is None
    assert trial.most(weights(2)) == 1
    # While the target is out, its predecessor is known to be good.
    trial = trial.failed(weights(2), "weights-refused", "bad")
    assert trial.most(weights(2)) is None


def test_an_engine_that_fails_with_weights_that_others_serve_fails_alone() -> None:
    trial = Trial().passed(weights(2))
    assert trial.failed(weights(2), "weights-refused", "its own fault") == trial


def test_a_laggard_does_not_take_the_fleet_back() -> None:
    trial = Trial().passed(weights(3))
    assert trial.passed(weights(2)).good == weights(3)
    assert trial.passed(weights(1, "next")).good == weights(1, "next")
