"""Routing policies."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_workers.gateway.routing import IMBALANCE, Candidate, PrefixAffinity, Router, make_router


def fleet(*loads: int) -> list[Candidate]:
    return [Candidate(f"e{index}", load) for index, load in enumerate(loads)]


@pytest.mark.parametrize("name", ["PrefixAffinity", "LeastLoaded", "RoundRobin"])
@given(loads=st.lists(st.integers(0, 40), min_size=1, max_size=6), session=st.sampled_from(["", "a", "b"]))
def test_every_policy_chooses_a_candidate(name: str, loads: list[int], session: str) -> None:
    assert make_router(name).choose(fleet(*loads), session, range(200)) in {f"e{i}" for i in range(len(loads))}


def test_unknown_policy_names_those_there_are() -> None:
    with pytest.raises(KeyError, match="LeastLoaded, PrefixAffinity, RoundRobin"):
        make_router("Random")
    assert set(Router.registry) == {"LeastLoaded", "PrefixAffinity", "RoundRobin"}


def test_least_loaded_spreads_ties() -> None:
    router = make_router("LeastLoaded")
    assert router.choose(fleet(3, 1, 2), "", ()) == "e1"
    assert Counter(router.choose(fleet(0, 0, 5), "", ()) for _ in range(10)) == {"e0": 5, "e1": 5}


def test_round_robin_takes_turns_whoever_comes_and_goes() -> None:
    router = make_router("RoundRobin")
    assert [router.choose(fleet(9, 0, 0), "", ()) for _ in range(4)] == ["e0", "e1", "e2", "e0"]
    assert router.choose([Candidate("e2", 0)], "", ()) == "e2"


def test_a_session_stays() -> None:
    router = PrefixAffinity()
    first = router.choose(fleet(0, 0, 0), "s", [1])
    assert all(router.choose(fleet(1, 1, 1), "s", [1]) == first for _ in range(5))


def test_a_session_moves_when_its_engine_is_overloaded_or_gone() -> None:
    router = PrefixAffinity()
    router.choose([Candidate("e0", 0)], "s", [1])
    assert router.choose([Candidate("e0", IMBALANCE + 1), Candidate("e1", 0)], "s", [1]) == "e1"
    router.choose([Candidate("e0", 0)], "t", [1])
    assert router.choose([Candidate("e1", 0)], "t", [1]) == "e1"


def test_calls_without_a_session_follow_the_longest_common_prefix() -> None:
    router = PrefixAffinity()
    short, long = list(range(128)), list(range(256))
    router.choose([Candidate("e0", 0)], "", short)
    router.choose([Candidate("e1", 0)], "", long)
    both = fleet(0, 0)
    assert router.choose(both, "", [*long, 7]) == "e1"
    assert router.choose(both, "", [*long[:200], *range(900, 1100)]) == "e1"


def test_affinity_keeps_the_load_even() -> None:
    """64 agents with 20 turns each on 4 engines: the greatest load stays near the mean (strategy RF-2)."""
    router, chance = PrefixAffinity(), random.Random(1)
    loads = dict.fromkeys(("e0", "e1", "e2", "e3"), 0)
    running: list[str] = []
    last: dict[str, str] = {}
    moves, worst = 0, 0.0
    for turn in range(64 * 20):
        session = f"s{turn % 64}"
        name = router.choose([Candidate(*item) for item in loads.items()], session, [1])
        moves += last.get(session, name) != name
        last[session] = name
        loads[name] += 1
        running.append(name)
        if len(running) > 32:
            loads[running.pop(chance.randrange(len(running)))] -= 1
            worst = max(worst, max(loads.values()) / (sum(loads.values()) / 4))
    assert worst < 2.2
    assert moves < 64 * 20 * 0.25
