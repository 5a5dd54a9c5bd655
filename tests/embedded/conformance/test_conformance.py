"""Every case on both servers: they agree, but for the differences that are said; and those are really there."""

import pytest

from tests.embedded.conformance.case import Case
from tests.embedded.conformance.cases import CASES
from tests.embedded.conformance.conftest import Pair
from tests.embedded.conformance.exchange import compared


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.area}: {case.name}")
def test_answers_agree(pair: Pair, case: Case) -> None:
    complaints = [each.complaint() for each in compared(case, *pair)]
    found = "\n".join(each for each in complaints if each)
    assert not found, f"\n{found}"
