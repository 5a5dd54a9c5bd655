"""helm, for every test of the chart."""

from __future__ import annotations

import pytest

from tests.chart.helm import Helm, find_helm
from tests.kubernetes import ProgramsMissingError


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """helm without a cluster; skips where it is absent."""
    try:
        return Helm(find_helm(), tmp_path_factory.mktemp("helm"))
    except ProgramsMissingError as reason:
        pytest.skip(str(reason))
