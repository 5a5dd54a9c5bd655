"""Seconds are the phase's that they were spent in, and nobody's between two phases."""

from __future__ import annotations

import pytest

from shoal.api.services.training import TrainerPhase
from shoal_workers.trainer.phases import Phases

WAITING, TRAINING = TrainerPhase.WAITING, TrainerPhase.TRAINING


def test_time_between_blocks_is_nobodys() -> None:
    now = 3.0
    phases = Phases(lambda: now)
    now += 10
    with phases.spending(WAITING):
        now += 1
        assert (phases.current, phases.seconds(WAITING), phases.seconds(TRAINING)) == (WAITING, 1, 0)
    now += 10
    assert (phases.current, phases.seconds(WAITING)) == (WAITING, 1)
    with phases.spending(TRAINING):
        now += 2
    with phases.spending(WAITING):
        now += 4
    phases.current = TrainerPhase.DONE
    now += 10
    assert (phases.seconds(WAITING), phases.seconds(TRAINING), phases.seconds(TrainerPhase.DONE)) == (5, 2, 0)


def test_time_until_a_failure_counts() -> None:
    now = 0.0
    phases = Phases(lambda: now)

    def fail() -> None:
        nonlocal now
        with phases.spending(TRAINING):
            now += 3
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    now += 1
    assert phases.seconds(TRAINING) == 3
