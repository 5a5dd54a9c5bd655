"""The live view: it fits the terminal, and says what is waited for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.cli.cluster import Snapshot
from shoal.cli.live import BARS, History, curve, duration, screen
from shoal.cli.progress import LINE_WIDTH, lines, stamped

Json = dict[str, Any]


def waiting(message: str) -> list[Json]:
    return [{"type": "Degraded", "status": "True", "reason": "MissingModel", "message": message}]


def job(name: str = "lake", step: int = 3, reward: str | None = "0.5", message: str = "") -> Json:
    status: Json = {"phase": "Running", "step": step, "steps": 56, "weightVersion": -1 if step == 0 else step}
    if reward is not None:
        status["reward"] = {"window": reward}
    if message:
        status["conditions"] = waiting(message)
    return {"metadata": {"name": name}, "status": status}


def fleet(message: str = "") -> Json:
    status: Json = {"readyReplicas": 0, "desiredReplicas": 2, "engines": [{"weightVersion": -1}] * 2}
    return {"metadata": {"name": "lake-fleet"}, "status": status | {"conditions": waiting(message) if message else []}}


TEXTS = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), max_size=400)


@given(TEXTS, st.integers(1, 60), st.integers(1, 8), st.integers(20, 200), st.integers(3, 60))
def test_fits_any_terminal(message: str, steps: int, fleets: int, width: int, height: int) -> None:
    history = History()
    for step in range(steps):
        history.see(Snapshot([job(step=step, reward=str(step / steps))], [], []))
    shown = screen(Snapshot([job(message=message)], [], [fleet(message)] * fleets), history, 75.0, width, height)
    assert len(shown.splitlines()) <= height
    assert max(map(len, shown.splitlines())) <= width


def test_says_how_long_what_is_waited_for_and_how_it_learns() -> None:
    history = History()
    for step, reward in enumerate(("0.1", "0.4", "0.8")):
        history.see(Snapshot([job(step=step, reward=reward)], [], []))
    message = (
        "the engines wait for the model's folder /var/lib/shoal/models/frozenlake, which no node has: build it first"
    )
    shown = screen(Snapshot([job(message=message)], [], [fleet()]), history, 75.0, 80, 24)
    assert "1:15 since the start" in shown
    assert " ".join(shown.split()).count(message) == 1, "whole, in as many lines as it takes"
    assert f"0.10 {BARS[0]}{BARS[3]}{BARS[7]} 0.80" in shown
    assert "-1" not in shown, "a version that is not there yet"


@pytest.mark.parametrize(
    ("values", "width", "bars"),
    [([0.0, 1.0], 8, "▁█"), ([0.5, 0.5], 8, "▁▁"), ([9.0, 0.0, 0.5, 1.0], 3, "▁▅█"), ([1.0, 0.0], 8, "█▁")],
)
def test_a_curve_shows_the_last_values_between_their_ends(values: list[float], width: int, bars: str) -> None:
    assert curve(values, width) == bars


@pytest.mark.parametrize(("seconds", "clock"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3600, "1:00:00")])
def test_durations(seconds: float, clock: str) -> None:
    assert duration(seconds) == clock


@given(TEXTS)
def test_lines_without_a_terminal_are_short(message: str) -> None:
    for _, line in lines(Snapshot([job(message=message)], [], [fleet(message)])):
        assert all(len(each) <= LINE_WIDTH for each in stamped(12.0, line).splitlines())


def test_each_resource_has_a_line_of_its_own() -> None:
    said = dict(lines(Snapshot([job(step=0, reward=None)], [], [fleet("no GPU")])))
    assert said["job lake"].startswith("lake Running step 0/56 version - reward -")
    assert said["fleet lake-fleet"] == "lake-fleet 0/2 ready at version - (MissingModel: no GPU)"
