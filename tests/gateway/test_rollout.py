"""The weight roll-out: table cases, and invariants over random histories."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shoal_workers.gateway import rollout
from shoal_workers.gateway.engines import allowed_unavailable
from shoal_workers.gateway.rollout import Key, Member

TIMEOUT = 10.0


def serving(name: str, version: int, **fields: object) -> Member:
    return replace(Member(name, Key(version), admitted=True), **fields)  # type: ignore[arg-type]


def decide(members: list[Member], version: int, allowed: int = 1, now: float = 0.0) -> rollout.Plan:
    return rollout.plan(members, Key(version), allowed, TIMEOUT, now)


def test_current_engines_serve_and_nothing_is_updated() -> None:
    plan = decide([Member("a", Key(3)), Member("b", Key(3))], 3)
    assert plan.serve == {"a", "b"}
    assert plan.update == ()


def test_one_at_a_time_while_the_other_serves() -> None:
    plan = decide([serving("a", 1), serving("b", 1)], 2)
    assert plan.update == ("a",)
    assert decide([rollout.prepared(plan.members["a"]), plan.members["b"]], 2).serve == {"b"}
    after = [rollout.succeeded(plan.members["a"], Key(2)), plan.members["b"]]
    plan = decide(after, 2)
    assert plan.update == ("b",)
    assert decide([plan.members["a"], rollout.prepared(plan.members["b"])], 2).serve == {"a"}


def test_a_single_engine_is_updated_and_requests_wait() -> None:
    plan = decide([serving("a", 1)], 2)
    assert plan.update == ("a",)
    assert decide([rollout.prepared(plan.members["a"])], 2).serve == frozenset()


def test_a_new_engine_never_serves_before_it_has_the_target() -> None:
    plan = decide([serving("a", 5), Member("new", Key(0))], 5)
    assert plan.update == ("new",)
    assert plan.serve == {"a"}


def test_new_engines_do_not_use_up_the_budget() -> None:
    plan = decide([serving("a", 1), serving("b", 1), Member("new", Key(0))], 2)
    assert set(plan.update) == {"new", "a"}


@pytest.mark.parametrize(
    ("members", "most", "update"),
    [
        pytest.param([serving("a", 1), serving("b", 1), Member("new", Key(0))], 1, ("new",), id="nobody misses it"),
        pytest.param([serving("a", 1), serving("b", 1)], 1, ("a",), id="one although two might"),
        pytest.param([serving("a", 1, updating=True), Member("new", Key(0))], 1, (), id="none beside it"),
        pytest.param([serving("a", 1), Member("new", Key(0))], 0, (), id="nothing to load"),
        pytest.param([serving("a", 1), serving("b", 1)], None, ("a", "b"), id="not on trial"),
    ],
)
def test_weights_on_trial_go_to_one_engine(members: list[Member], most: int | None, update: tuple[str, ...]) -> None:
    assert rollout.plan(members, Key(2), 2, TIMEOUT, 0.0, most).update == update


def test_an_engine_serves_while_it_only_looks_at_weights() -> None:
    looking = decide([serving("a", 1)], 2).members["a"]
    assert decide([looking], 2).serve == {"a"}
    assert decide([rollout.prepared(looking)], 2).serve == frozenset()
    assert decide([rollout.failed(looking, 0.0, intact=True)], 2, now=0.5).serve == {"a"}


def test_oldest_first() -> None:
    plan = decide([serving("a", 4), serving("b", 2), serving("c", 3)], 5)
    assert plan.update == ("b",)


def test_a_broken_engine_does_not_serve_and_is_tried_again_later() -> None:
    broken = rollout.failed(replace(serving("a", 1), updating=True), now=100.0, intact=False)
    plan = decide([broken, serving("b", 2)], 2, now=100.5)
    assert plan.update == ()
    assert plan.serve == {"b"}
    assert plan.wake_at == broken.retry_at
    assert decide([broken, serving("b", 2)], 2, now=broken.retry_at).update == ("a",)


def test_unusable_weights_leave_the_old_version_serving_for_a_while() -> None:
    member = rollout.failed(replace(serving("a", 1), updating=True, lagging_since=0.0), now=1.0, intact=True)
    assert decide([member], 2, now=1.5).serve == {"a"}
    assert decide([member], 2, now=TIMEOUT + 1).serve == frozenset()


def test_a_dead_engine_does_not_stop_the_roll_out() -> None:
    plan = decide([serving("dead", 1, able=False), serving("b", 1), serving("c", 1)], 2)
    assert plan.update == ("b",)
    updating = [*(plan.members[name] for name in ("dead", "c")), replace(plan.members["b"], updating=True)]
    assert decide(updating, 2).update == ()


def test_same_version_with_another_checksum_is_other_weights() -> None:
    """A trainer that restarts from a checkpoint publishes a version number again, with different weights."""
    member = Member("a", Key(3, "old"), admitted=True)
    plan = rollout.plan([member], Key(3, "new"), 1, TIMEOUT, 0.0)
    assert plan.update == ("a",)


def test_engines_with_another_runs_weights_serve_nobody_and_load_at_once() -> None:
    """Version 9 of a run that has ended is not newer than version 0 of the one that follows it."""
    target = Key(0, "b0", "two")
    members = [Member(name, Key(9, "a9", "one"), admitted=True) for name in ("a", "b", "c")]
    plan = rollout.plan(members, target, 1, TIMEOUT, 0.0)
    assert set(plan.update) == {"a", "b", "c"}
    assert plan.serve == frozenset()
    loaded = [rollout.succeeded(plan.members["a"], target), plan.members["b"], plan.members["c"]]
    assert rollout.plan(loaded, target, 1, TIMEOUT, 0.0).serve == {"a"}


def test_original_weights_stand_in_for_a_runs_first_version() -> None:
    members = [Member(name, rollout.ORIGINAL, admitted=True) for name in ("a", "b")]
    plan = rollout.plan(members, Key(1, "one", "run"), 1, TIMEOUT, 0.0)
    assert plan.update == ("a",)
    assert plan.serve == {"a", "b"}


def test_an_older_target_is_rolled_out_when_it_is_the_target() -> None:
    assert decide([serving("a", 9)], 2).update == ("a",)


@pytest.mark.parametrize(
    ("value", "count", "expected"), [(1, 8, 1), (3, 8, 3), ("25%", 8, 2), ("10%", 8, 1), ("100%", 5, 5), (0, 4, 1)]
)
def test_allowed_unavailable(value: int | str, count: int, expected: int) -> None:
    assert allowed_unavailable(value, count) == expected


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.booleans(), st.booleans()), max_size=8),
    st.integers(0, 6),
    st.integers(1, 4),
)
def test_one_plan(engines: list[tuple[int, bool, bool, bool]], target: int, allowed: int) -> None:
    members = [
        Member(str(index), Key(version), able=able, admitted=admitted, updating=updating and able)
        for index, (version, able, admitted, updating) in enumerate(engines)
    ]
    plan = decide(members, target, allowed)
    before = sum(m.admitted and m.updating for m in members)
    started = sum(plan.members[name].admitted for name in plan.update)
    assert before + started <= max(before, allowed)
    for name in plan.serve:
        member = plan.members[name]
        assert member.able
        assert member.preparing or not member.updating
        assert member.key == Key(target) or member.admitted
    for name in plan.update:
        assert plan.members[name].key != Key(target)


class RollOut(RuleBasedStateMachine):
    """A fleet that starts, updates, fails, dies and gets new targets in any order."""

    @initialize(allowed=st.integers(1, 3), count=st.integers(1, 5))
    def begin(self, allowed: int, count: int) -> None:
        self.allowed = allowed
        self.now = 0.0
        self.target = Key(0)
        self.loading: dict[str, Key] = {}
        self.members = {f"e{index}": Member(f"e{index}", Key(0)) for index in range(count)}
        self.made = count
        self.look()

    def look(self) -> None:
        self.plan = rollout.plan(list(self.members.values()), self.target, self.allowed, TIMEOUT, self.now)
        self.members = dict(self.plan.members)
        for name in self.plan.update:
            assert name not in self.loading
            self.loading[name] = self.target

    @rule()
    def publish(self) -> None:
        self.target = Key(self.target.version + 1)
        self.look()

    @precondition(lambda self: self.loading)
    @rule(data=st.data())
    def has_looked(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.loading)))
        self.members[name] = rollout.prepared(self.members[name])
        self.look()
        assert name not in self.plan.serve

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), outcome=st.sampled_from(["ok", "ok", "ok", "unusable", "broken"]))
    def update_ends(self, data: st.DataObject, outcome: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.loading)))
        key = self.loading.pop(name)
        if outcome == "ok":
            self.members[name] = rollout.succeeded(self.members[name], key)
        else:
            self.members[name] = rollout.failed(self.members[name], self.now, intact=outcome == "unusable")
        self.look()

    @rule(data=st.data())
    def replaced(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.members)))
        del self.members[name]
        self.loading.pop(name, None)
        self.made += 1
        self.members[f"e{self.made}"] = Member(f"e{self.made}", Key(0))
        self.look()

    @rule(data=st.data(), able=st.booleans())
    def reachability(self, data: st.DataObject, able: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.members)))
        self.members[name] = replace(self.members[name], able=able)
        self.look()

    @rule(seconds=st.floats(0.1, 20))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.look()

    @invariant()
    def at_most_so_many_out_of_service(self) -> None:
        out = [m for m in self.members.values() if m.admitted and m.updating]
        assert len(out) <= self.allowed

    @invariant()
    def nothing_unproved_serves(self) -> None:
        for name in self.plan.serve:
            member = self.members[name]
            assert member.able
            assert member.intact
            assert member.preparing or not member.updating
            assert member.admitted

    @invariant()
    def converges_to_the_newest_target(self) -> None:
        """From any state, if nothing else goes wrong, every reachable engine ends on the target and serves it."""
        members, loading, now = dict(self.members), dict(self.loading), self.now
        for _ in range(4 * len(members) + 4):
            for name, key in loading.items():
                members[name] = rollout.succeeded(members[name], key)
            now += rollout.LONGEST_RETRY_SECONDS
            plan = rollout.plan(list(members.values()), self.target, self.allowed, TIMEOUT, now)
            members, loading = dict(plan.members), dict.fromkeys(plan.update, self.target)
        able = {member.name for member in members.values() if member.able}
        assert plan.serve == able
        assert all(members[name].key == self.target for name in able)


TestRollOut = RollOut.TestCase
TestRollOut.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
