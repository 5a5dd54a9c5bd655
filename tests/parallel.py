"""How pytest-xdist (`-n N`) shares the tests among its processes: a folder is never split, and the slowest come first.

The tests of a folder share what is made once in a process: API servers, nodes, engines. Two folders share nothing that
is fixed: the kernel chooses ports, pytest chooses folders, and namespaces and loopback addresses are drawn anew.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

SLOWEST = (
    "tests/interplay",
    "tests/controllers",
    "tests/chart",
    "tests/engines",
    "tests/trainer",
    "tests/embedded/node",
    "tests/agent",
    "tests/embedded/supervisor",
    "tests/environment",
    "tests/bench",
    "tests/embedded/apiserver",
    "tests/crdgen",
    "tests/gateway",
)
"""The longest first (`--durations=0` tells), so that no process begins with one of them when the others have ended."""


def folder_of(nodeid: str) -> str:
    """The folder of a test's file."""
    return nodeid.partition("::")[0].rpartition("/")[0]


def place_of(nodeid: str) -> int:
    """Sort key of a test: where its folder stands among the slowest."""
    folder = folder_of(nodeid)
    return SLOWEST.index(folder) if folder in SLOWEST else len(SLOWEST)


class FolderScheduling(LoadScopeScheduling):
    """Whole folders, in the order in which they were collected."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return folder_of(nodeid)
