"""A member's rewards: finite numbers, or the grader's fault."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shoal_workers.environment.adapter import GraderError, Observation, Step
from shoal_workers.environment.protocol import _graded


@pytest.mark.parametrize("reward", [float("nan"), np.float32("inf"), "1.0", [1.0], 10**400, object()])
def test_a_reward_that_is_no_number_is_the_graders_fault(reward: Any) -> None:
    with pytest.raises(GraderError, match="no finite number"):
        _graded(Step(Observation(""), reward=reward))


@pytest.mark.parametrize(("reward", "given"), [(None, None), (1, 1.0), (np.float32(0.5), 0.5), (True, 1.0)])
def test_any_finite_number_is_one(reward: Any, given: float | None) -> None:
    assert _graded(Step(Observation(""), reward=reward)).reward == given
