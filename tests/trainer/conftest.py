"""Fixtures of the trainer's tests."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

# No test is timed: the machine may be busy with something else.
settings.register_profile("trainer", deadline=None)
settings.load_profile("trainer")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny matrices are slower on many threads, above all on a machine that others use as well."""
    torch.set_num_threads(1)
