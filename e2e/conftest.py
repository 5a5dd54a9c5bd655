"""The choice of a provider, and a record of results that `python -m e2e` reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from e2e.providers import PROVIDERS


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--provider` chooses the cluster of e2e/scenarios."""
    parser.addoption("--provider", choices=sorted(PROVIDERS), help="cluster of the scenarios")
    parser.addoption("--results", type=Path, help="write each scenario's outcome into this file, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Name the mark that scenarios carry."""
    config.addinivalue_line("markers", "needs(*features): what the scenario's cluster must have")
    config.addinivalue_line("markers", "last: judges what the other scenarios did")
    results = config.getoption("--results")
    if results is not None:
        config.pluginmanager.register(Results(results))


class Results:
    """Outcome and seconds of each scenario."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rows: dict[str, dict[str, object]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the first outcome that is not a pass, and the seconds of all three phases."""
        row = self._rows.setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0, "reason": ""})
        row["seconds"] = float(str(row["seconds"])) + report.duration
        if report.outcome != "passed" and row["outcome"] == "passed":
            row["outcome"] = report.outcome
            row["reason"] = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext[-400:]
        self._file.write_text(json.dumps(self._rows))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Scenarios marked `last` judge what the others did."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)
