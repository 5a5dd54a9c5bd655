"""The choice of a provider, and a record of results that `python -m e2e` reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
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


@dataclass
class Row:
    """What is known of one scenario."""

    outcome: str = "not run"
    seconds: float = 0.0
    reason: str = "a scenario before it failed, or everything was ended"


class Results:
    """Outcome and seconds of each scenario, on disk at any moment: who reads it may do so because pytest was killed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rows: dict[str, Row] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Enter all scenarios that are to be run."""
        self._rows = {item.nodeid: Row() for item in session.items}
        self._write()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Until its end a scenario has not passed."""
        self._rows[nodeid] = Row("unfinished", reason="it was ended before it was over")
        self._write()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the first outcome that is not a pass, and the seconds of all three phases."""
        row = self._rows[report.nodeid]
        row.seconds += report.duration
        if report.outcome != "passed" and row.outcome == "unfinished":
            row.outcome = report.outcome
            row.reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext[-400:]
        elif report.when == "teardown" and row.outcome == "unfinished":
            row.outcome, row.reason = "passed", ""
        self._write()

    def _write(self) -> None:
        self._file.write_text(json.dumps({node: asdict(row) for node, row in self._rows.items()}))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Scenarios marked `last` judge what the others did."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)
