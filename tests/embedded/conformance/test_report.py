"""The committed page lists the cases that the suite has."""

from pathlib import Path

from tests.embedded.conformance.cases import CASES
from tests.embedded.conformance.report import page

PAGE = Path(__file__).resolve().parents[3] / "docs" / "conformance.md"


def test_the_page_is_the_suites() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.embedded.conformance.report > docs/conformance.md"


def test_no_two_cases_have_one_name() -> None:
    assert len({(each.area, each.name) for each in CASES}) == len(CASES)
