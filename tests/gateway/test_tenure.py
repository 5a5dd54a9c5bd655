"""Whose weights a fleet serves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.api.services.models import WeightsTarget
from shoal_workers.gateway.tenure import LEAVE_SECONDS, TENURE_SECONDS, Tenure, Verdict, left_by, offered, reported


def target(version: int, run: str = "one") -> WeightsTarget:
    return WeightsTarget(version=version, path=f"/{run}/{version}", checksum=f"{run}{version}", run=run)


def test_the_first_target_is_taken_and_its_run_goes_on() -> None:
    verdict, held = offered(None, target(3), 10.0)
    assert (verdict, held) == (Verdict.TAKEN, Tenure(target(3), 10.0))
    assert offered(held, target(3), 20.0) == (Verdict.TAKEN, Tenure(target(3), 20.0))
    assert offered(held, target(4), 20.0) == (Verdict.TAKEN, Tenure(target(4), 20.0))


def test_an_older_version_of_the_run_shows_that_it_is_alive() -> None:
    assert offered(Tenure(target(5), 0.0), target(4), 30.0) == (Verdict.OLDER, Tenure(target(5), 30.0))
    assert offered(Tenure(target(5), 0.0), target(4), 30.0, reset=True) == (Verdict.TAKEN, Tenure(target(4), 30.0))


def test_another_run_waits_until_the_first_is_silent() -> None:
    held = Tenure(target(9), 0.0)
    assert offered(held, target(0, "two"), TENURE_SECONDS - 1) == (Verdict.IN_USE, held)
    assert offered(held, target(0, "two"), TENURE_SECONDS) == (Verdict.TAKEN, Tenure(target(0, "two"), TENURE_SECONDS))


def test_weights_in_nobodys_name_give_way() -> None:
    assert offered(Tenure(target(9, ""), 0.0), target(0), 1.0)[0] is Verdict.TAKEN
    assert offered(Tenure(target(0), 0.0), target(9, ""), 1.0)[0] is Verdict.IN_USE


def test_a_trainer_that_stopped_leaves_the_fleet_to_the_next_soon() -> None:
    held = left_by(Tenure(target(9), 50.0), "one", 60.0)
    assert held is not None
    assert held.left(60.0) == LEAVE_SECONDS
    assert left_by(held, "one", 70.0) == held
    assert left_by(held, "two", 70.0) == held
    assert offered(held, target(9), 80.0) == (Verdict.TAKEN, Tenure(target(9), 80.0))
    assert offered(held, target(0, "two"), 60.0 + LEAVE_SECONDS)[0] is Verdict.TAKEN
    assert left_by(None, "one", 0.0) is None


def test_engines_tell_a_young_gateway_and_nobody_else() -> None:
    held = reported(None, target(3), 5.0)
    assert held == Tenure(target(3), 5.0)
    assert reported(held, target(4), 6.0) == Tenure(target(4), 5.0)
    assert reported(held, target(2), 6.0) is held
    assert reported(held, target(50, "two"), 6.0) is held


@given(st.lists(st.tuples(st.floats(0, 50), st.sampled_from(["one", "two"]), st.integers(0, 5))))
def test_a_run_that_is_heard_of_keeps_the_fleet(offers: list[tuple[float, str, int]]) -> None:
    """As long as its trainer speaks up in time, nobody else's weights are ever the target."""
    now, held = 0.0, offered(None, target(0), 0.0)[1]
    for pause, run, version in offers:
        now += pause
        _, held = offered(held, target(version, run), now)
        _, held = offered(held, held.target.model_copy(), now)
        assert held.target.run == "one"
