"""The lease guard: a model test over random steps, and its rules one by one."""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from shoal.api.services.leases import GrantRequest, Outcome, SlotState
from shoal_workers.environment.guard import (
    Guard,
    Held,
    LeaseLostError,
    MemberLeasedError,
    NoFreeSlotError,
    Reset,
    ReusePolicy,
)

# Together these make 20,000 steps here and a million in the slow run.
STEPS = 50
EXAMPLES = 400
SLOW_EXAMPLES = 20_000


def request(key: str, ttl: float = 10.0, max_seconds: float = 100.0, lease_id: str = "") -> GrantRequest:
    return GrantRequest(lease_id=lease_id or f"id-{key}", key=key, holder="agent", ttl=ttl, max_seconds=max_seconds)


def ready_guard(count: int = 2, policy: ReusePolicy | None = None, now: float = 0.0) -> Guard:
    guard = Guard(count, policy or ReusePolicy())
    for reset in guard.take_resets():
        assert guard.reset_done(reset, now)
    return guard


class GuardMachine(RuleBasedStateMachine):
    """Drives the guard and a naive model of who may hold what; they must agree after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.ids = itertools.count()
        self.pending: list[Reset] = []
        self.stale: list[Reset] = []
        self.held: dict[str, Held] = {}
        self.deadline: dict[str, float] = {}
        self.hard_end: dict[str, float] = {}

    @initialize(
        count=st.integers(1, 4),
        ephemeral=st.booleans(),
        episodes=st.none() | st.integers(1, 3),
        age=st.none() | st.integers(5, 60),
        quarantine=st.integers(1, 2),
    )
    def create(self, count: int, ephemeral: bool, episodes: int | None, age: float | None, quarantine: int) -> None:
        self.policy = ReusePolicy(ephemeral, episodes, age, quarantine)
        self.guard = Guard(count, self.policy)
        self.revision = self.guard.revision

    def alive(self, key: str) -> bool:
        return key in self.held and self.now < self.deadline[key]

    def live(self) -> list[str]:
        return [key for key in self.held if self.alive(key)]

    def forget_expired(self) -> None:
        for key in [key for key in self.held if not self.alive(key)]:
            del self.held[key]

    @rule(key=st.sampled_from("abcdef"), ttl=st.integers(1, 20), limit=st.integers(5, 60))
    def grant(self, key: str, ttl: int, limit: int) -> None:
        before = self.held.get(key) if self.alive(key) else None
        taken = {self.held[other].slot for other in self.live()}
        try:
            lease = self.guard.grant(request(key, ttl, limit, f"lease-{next(self.ids)}"), self.now)
        except NoFreeSlotError:
            assert before is None
            assert not any(slot.state is SlotState.FREE for slot in self.guard.report())
            return
        if before is not None:
            assert lease is before, "the same key must get the same grant"
            return
        assert lease.slot not in taken, "two holders of one slot"
        self.held[key] = lease
        self.deadline[key] = self.now + min(ttl, limit)
        self.hard_end[key] = self.now + limit

    @rule(key=st.sampled_from("abcdef"), ttl=st.none() | st.integers(1, 20))
    def renew(self, key: str, ttl: int | None) -> None:
        lease = self.held.get(key)
        if lease is None:
            return
        if not self.alive(key):
            with pytest.raises(LeaseLostError):
                self.guard.renew(lease.lease_id, ttl, self.now)
            return
        renewed = self.guard.renew(lease.lease_id, ttl, self.now)
        self.deadline[key] = min(self.now + renewed.ttl, self.hard_end[key])
        assert renewed.expires_at == self.deadline[key] <= self.hard_end[key]

    @rule(key=st.sampled_from("abcdef"), outcome=st.sampled_from(Outcome), faulty=st.booleans())
    def release(self, key: str, outcome: Outcome, faulty: bool) -> None:
        lease = self.held.get(key)
        if lease is None:
            return
        if faulty:
            self.guard.mark_faulty(lease.lease_id)
        if not self.alive(key):
            with pytest.raises(LeaseLostError):
                self.guard.release(lease.lease_id, outcome, self.now)
        else:
            state = self.guard.release(lease.lease_id, outcome, self.now)
            assert state in (SlotState.RESETTING, SlotState.QUARANTINED, SlotState.RETIRED), "never straight to free"
            if (outcome is Outcome.FAULT or faulty) and self.policy.quarantine == 1:
                assert state is not SlotState.RESETTING
        del self.held[key]

    @rule(index=st.integers(0, 5), success=st.booleans())
    def finish_reset(self, index: int, success: bool) -> None:
        self.pending += self.guard.take_resets()
        if not self.pending:
            return
        reset = self.pending.pop(index % len(self.pending))
        slot = self.guard.report()[reset.slot]
        done = self.guard.reset_done(reset, self.now) if success else self.guard.reset_failed(reset, "broken")
        assert done == (slot.state is SlotState.RESETTING)
        after = self.guard.report()[reset.slot].state
        if done and not success:
            assert after is SlotState.QUARANTINED
        self.stale.append(reset)

    @rule(index=st.integers(0, 5))
    def late_reset_changes_nothing(self, index: int) -> None:
        if self.stale:
            reset = self.stale[index % len(self.stale)]
            revision = self.guard.revision
            assert not self.guard.reset_done(reset, self.now)
            assert not self.guard.reset_failed(reset, "late")
            assert self.guard.revision == revision

    @rule(slots=st.none() | st.integers(1, 2), drain=st.booleans())
    def retire(self, slots: int | None, drain: bool) -> None:
        live = self.live()
        before = self.guard.report()
        try:
            retired, leased = self.guard.retire(slots, drain, self.now)
        except MemberLeasedError:
            assert live, "only a lease may stop a retirement"
            assert not drain
            return
        assert drain or not live
        assert leased == len(live)
        assert retired >= min(len(before) if slots is None else slots, len(before)) - leased

    @rule(seconds=st.floats(0.1, 15))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        expected = {self.held[key].lease_id for key in self.held if not self.alive(key)}
        self.guard.tick(self.now)
        expired = {lease.lease_id for lease in self.guard.take_expired()}
        assert expired == expected
        self.forget_expired()

    @rule(key=st.sampled_from("abcdef"))
    def look_up(self, key: str) -> None:
        lease = self.held.get(key)
        if lease is None:
            return
        if self.alive(key):
            assert self.guard.lookup(lease.token, self.now) is lease
        else:
            with pytest.raises(LeaseLostError):
                self.guard.lookup(lease.token, self.now)

    @invariant()
    def consistent(self) -> None:
        if not hasattr(self, "guard"):
            return
        leased = [slot for slot in self.guard.report() if slot.state is SlotState.LEASED]
        assert len({slot.lease_id for slot in leased}) == len(leased)
        assert {slot.lease_id for slot in leased} >= {self.held[key].lease_id for key in self.live()}
        assert len(leased) == len(list(self.guard.leases))
        for slot in self.guard.report():
            assert bool(slot.lease_id) == (slot.state is SlotState.LEASED)
            if self.policy.max_episodes is not None:
                assert slot.episodes <= self.policy.max_episodes
            if self.policy.ephemeral:
                assert slot.episodes <= 1
        assert self.guard.revision >= self.revision
        self.revision = self.guard.revision


def run_machine(examples: int) -> None:
    run_state_machine_as_test(
        GuardMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_guard_agrees_with_the_model_over_twenty_thousand_random_steps() -> None:
    run_machine(EXAMPLES)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_guard_agrees_with_the_model_over_a_million_random_steps() -> None:
    run_machine(int(os.environ.get("SHOAL_GUARD_EXAMPLES", SLOW_EXAMPLES)))


def test_same_key_same_grant_and_no_second_holder() -> None:
    guard = ready_guard(1)
    lease = guard.grant(request("a"), 0)
    assert guard.grant(request("a", lease_id="other"), 1) is lease
    with pytest.raises(NoFreeSlotError):
        guard.grant(request("b"), 1)


def test_a_lease_without_heartbeat_expires_and_its_slot_is_rebuilt() -> None:
    guard = ready_guard(1)
    lease = guard.grant(request("a", ttl=10), 0)
    guard.renew(lease.lease_id, None, 9)
    assert guard.lookup(lease.token, 18) is lease
    with pytest.raises(LeaseLostError):
        guard.renew(lease.lease_id, None, 19)
    assert [held.key for held in guard.take_expired()] == ["a"]
    assert [reset.rebuild for reset in guard.take_resets()] == [True]
    assert guard.report()[0].state is SlotState.RESETTING


def test_renewal_ends_at_the_longest_episode() -> None:
    guard = ready_guard(1)
    lease = guard.grant(request("a", ttl=10, max_seconds=25), 0)
    for now in (8, 16, 24):
        guard.renew(lease.lease_id, None, now)
    assert lease.expires_at == 25
    with pytest.raises(LeaseLostError):
        guard.renew(lease.lease_id, None, 25)


def test_retirement_loses_against_a_lease() -> None:
    guard = ready_guard(2)
    lease = guard.grant(request("a"), 0)
    revision = guard.revision
    with pytest.raises(MemberLeasedError):
        guard.retire(None, drain=False, now=1)
    assert guard.revision == revision
    assert guard.retire(None, drain=True, now=1) == (1, 1)
    assert guard.retiring
    with pytest.raises(NoFreeSlotError):
        guard.grant(request("b"), 1)
    assert guard.release(lease.lease_id, Outcome.OK, 2) is SlotState.RETIRED


def test_a_clean_release_resets_without_rebuilding() -> None:
    guard = ready_guard(1)
    lease = guard.grant(request("a"), 0)
    assert guard.release(lease.lease_id, Outcome.OK, 1) is SlotState.RESETTING
    (reset,) = guard.take_resets()
    assert not reset.rebuild
    assert guard.reset_done(reset, 2)
    assert guard.report()[0].state is SlotState.FREE


def test_faults_are_counted_up_to_quarantine() -> None:
    guard = ready_guard(1, ReusePolicy(quarantine=2))
    first = guard.grant(request("a"), 0)
    assert guard.release(first.lease_id, Outcome.FAULT, 1) is SlotState.RESETTING
    (reset,) = guard.take_resets()
    guard.reset_done(reset, 2)
    second = guard.grant(request("b"), 3)
    guard.mark_faulty(second.lease_id)
    assert guard.release(second.lease_id, Outcome.OK, 4) is SlotState.QUARANTINED
    assert "2 episodes" in guard.report()[0].reason


@pytest.mark.parametrize(
    ("policy", "state"),
    [
        (ReusePolicy(ephemeral=True), SlotState.RETIRED),
        (ReusePolicy(max_episodes=1), SlotState.RETIRED),
        (ReusePolicy(max_age=5), SlotState.RETIRED),
        (ReusePolicy(max_age=50), SlotState.RESETTING),
    ],
)
def test_a_worn_out_slot_retires_when_its_lease_ends(policy: ReusePolicy, state: SlotState) -> None:
    guard = ready_guard(1, policy)
    lease = guard.grant(request("a"), 0)
    assert guard.release(lease.lease_id, Outcome.OK, 5) is state


def test_an_idle_slot_that_is_too_old_retires() -> None:
    guard = ready_guard(2, ReusePolicy(max_age=5))
    guard.tick(4.9)
    assert all(slot.state is SlotState.FREE for slot in guard.report())
    guard.tick(5)
    assert all(slot.state is SlotState.RETIRED for slot in guard.report())


def test_a_slot_that_starts_slowly_says_why() -> None:
    guard = Guard(1)
    (reset,) = guard.take_resets()
    guard.explain(reset, "cannot reach the environment")
    assert guard.report()[0].reason == "cannot reach the environment"
    assert not guard.started
    guard.reset_done(reset, 0)
    assert guard.started
    assert guard.report()[0].reason == ""


def test_a_slot_without_room_counts_no_more_and_wears_nobody_out() -> None:
    guard = Guard(2)
    first, second = guard.take_resets()
    assert guard.reset_done(first, 0.0)
    assert guard.no_room(second, "the server holds one")
    assert [slot.index for slot in guard.report()] == [0]
    assert guard.absent == ["the server holds one"]
    assert (guard.started, guard.exhausted, guard.retiring) == (True, False, False)
    assert not guard.no_room(second, "again")


def test_only_a_free_slot_can_be_distrusted() -> None:
    guard = Guard(1)
    (reset,) = guard.take_resets()
    assert not guard.distrust(0)
    guard.reset_done(reset, 0.0)
    assert guard.distrust(0)
    (again,) = guard.take_resets()
    assert again.rebuild
    assert not guard.reset_done(reset, 1.0), "an old reset must not free it"
    assert guard.reset_done(again, 1.0)


def test_an_environment_that_was_lost_is_no_fault_of_its_slot() -> None:
    guard = Guard(1)
    guard.reset_done(guard.take_resets()[0], 0.0)
    request = GrantRequest(lease_id="a", key="a", holder="h", ttl=10, max_seconds=10)
    guard.grant(request, 0.0)
    guard.mark_lost("a")
    assert guard.release("a", Outcome.FAULT, 1.0) is SlotState.RESETTING
    assert guard.take_resets()[0].rebuild
    assert guard.report()[0].faults == 0
