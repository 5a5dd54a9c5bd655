"""The ledger and the queue against a world of real guards: the cache must agree with the truth in the end."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from shoal.api.services.leases import (
    Grant,
    GrantRequest,
    Lease,
    LeaseRequest,
    MemberReport,
    Outcome,
    Released,
    SlotReport,
    SlotState,
)
from shoal_workers.broker.ledger import FORGET_SECONDS, Ledger, MemberRow
from shoal_workers.broker.matching import Queue, match
from shoal_workers.broker.status import quantile, status_of
from shoal_workers.environment.guard import Guard, LeaseLostError, NoFreeSlotError

LOST_AFTER = 6.0
NAMES = ("one", "two", "three")


def lease_of(name: str, grant: Grant) -> Lease:
    return Lease(
        id=grant.lease_id,
        key=grant.key,
        holder=grant.holder,
        member=name,
        slot=grant.slot,
        variant="default",
        environment_url="http://env",
        token=grant.token,
        ttl=10,
        heartbeat=3,
        expires_at=grant.expires_at,
    )


class FakeMember:
    """A real guard with a network that loses, delays and reorders what it says."""

    def __init__(self, name: str, slots: int, started_at: float) -> None:
        self.name = name
        self.guard = Guard(slots)
        self.started_at = started_at
        self.sent: list[MemberReport] = []
        for reset in self.guard.take_resets():
            self.guard.reset_done(reset, started_at)

    def report(self) -> MemberReport:
        return MemberReport(
            name=self.name,
            uid=self.name,
            url="http://" + self.name,
            revision=self.guard.revision,
            slots=self.guard.report(),
            started_at=self.started_at,
        )


class LedgerMachine(RuleBasedStateMachine):
    """Grants, releases, expiries, restarts and late reports in any order; then one fresh report of each settles it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.ledger = Ledger(lost_after=LOST_AFTER)
        self.ids = itertools.count()
        self.members = {name: FakeMember(name, 2, self.now) for name in NAMES}
        self.answered: dict[str, FakeMember] = {}

    @rule(name=st.sampled_from(NAMES), key=st.sampled_from("abcd"), answered=st.booleans())
    def grant(self, name: str, key: str, answered: bool) -> None:
        row = self.ledger.members.get(name)
        if row is None or row.free <= 0 or self.ledger.by_key(key) is not None:
            return
        self.ledger.reserve(name)
        member, process = self.members[name], row.process
        try:
            request = GrantRequest(lease_id=f"l{next(self.ids)}", key=key, holder="h", ttl=8, max_seconds=50)
            held = member.guard.grant(request, self.now)
        except NoFreeSlotError:
            self.ledger.unreserve(name, process)
            self.ledger.refused(name, suspect=False)
            assert row.free <= 0
            return
        self.ledger.unreserve(name, process)
        if not answered:
            self.ledger.refused(name, suspect=True)
            assert row.free == 0
            return
        grant = Grant(
            lease_id=held.lease_id,
            key=held.key,
            holder=held.holder,
            slot=held.slot,
            environment_url="http://env",
            token=held.token,
            expires_at=held.expires_at,
            revision=member.guard.revision,
            uid=member.name,
            started_at=member.started_at,
        )
        if self.ledger.granted(name, grant, lease_of(name, grant)):
            self.answered[grant.lease_id] = member

    @rule(key=st.sampled_from("abcd"))
    def release(self, key: str) -> None:
        row = self.ledger.by_key(key)
        if row is None:
            return
        guard = self.members[row.member].guard
        try:
            slot = guard.find(row.lease_id)
            state = guard.release(row.lease_id, Outcome.OK, self.now)
        except LeaseLostError:
            self.ledger.over(row)
            return
        assert slot is not None
        answer = Released(lease_id=row.lease_id, slot=slot.slot, state=state, revision=guard.revision)
        self.ledger.released(row, answer)
        assert self.ledger.by_key(key) is None

    @rule(name=st.sampled_from(NAMES))
    def finish_resets(self, name: str) -> None:
        guard = self.members[name].guard
        for reset in guard.take_resets():
            guard.reset_done(reset, self.now)

    @rule(name=st.sampled_from(NAMES), delay=st.booleans())
    def send(self, name: str, delay: bool) -> None:
        member = self.members[name]
        member.sent.append(member.report())
        if not delay:
            self.deliver(name, -1)

    @rule(name=st.sampled_from(NAMES), index=st.integers(0, 3))
    def deliver_late(self, name: str, index: int) -> None:
        if self.members[name].sent:
            self.deliver(name, index % len(self.members[name].sent))

    def deliver(self, name: str, index: int) -> None:
        report = self.members[name].sent.pop(index)
        for member, lease_id in self.ledger.report(report, self.now):
            guard = self.members[member].guard
            if guard.find(lease_id) is not None:
                guard.release(lease_id, Outcome.OK, self.now)

    @rule(seconds=st.floats(0.5, 7))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for member in self.members.values():
            member.guard.tick(self.now)
        for name in self.ledger.sweep(self.now):
            self.answered = {key: member for key, member in self.answered.items() if member.name != name}

    @rule(name=st.sampled_from(NAMES))
    def restart_member(self, name: str) -> None:
        self.now += 0.001
        old = self.members[name]
        self.members[name] = FakeMember(name, 2, self.now)
        self.members[name].sent = old.sent

    @rule()
    def restart_broker(self) -> None:
        self.ledger = Ledger(lost_after=LOST_AFTER)
        self.answered.clear()

    @rule()
    def settle(self) -> None:
        """Two rounds of fresh reports (the first may find orphans): ledger and guards agree on every slot."""
        for _ in range(2):
            for name, member in self.members.items():
                member.guard.tick(self.now)
                member.sent.append(member.report())
                self.deliver(name, -1)
        truth = {}
        for name, member in self.members.items():
            row = self.ledger.members[name]
            assert {index: slot.state for index, slot in row.slots.items()} == {
                slot.index: slot.state for slot in member.guard.report()
            }
            assert row.free == sum(slot.state is SlotState.FREE for slot in member.guard.report())
            truth.update({lease.key: (name, lease.lease_id) for lease in member.guard.leases})
        assert {row.key: (row.member, row.lease_id) for row in self.ledger.leases} == truth

    @invariant()
    def no_live_lease_is_forgotten(self) -> None:
        for lease_id, member in self.answered.items():
            if member is self.members[member.name] and member.guard.find(lease_id) is not None:
                assert self.ledger.by_id(lease_id) is not None, "an agent would be told that its lease is lost"

    @invariant()
    def consistent(self) -> None:
        leases = list(self.ledger.leases)
        assert len({row.key for row in leases}) == len(leases)
        for row in leases:
            assert self.ledger.by_key(row.key) is row
            assert row.lease_id in self.ledger.members[row.member].leases
        for name in NAMES:
            member = self.ledger.members.get(name)
            offered = self.ledger.next_member("default") is not None
            if member is not None and member.free > 0:
                assert offered


def test_the_ledger_agrees_with_the_guards_in_the_end() -> None:
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=300, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def request(key: str, variant: str | None = None) -> LeaseRequest:
    return LeaseRequest(key=key, holder="agent", variant=variant)


@given(st.lists(st.sampled_from([None, "red", "blue"]), max_size=20), st.permutations(["red", "blue"] * 6))
def test_each_slot_goes_to_the_longest_waiting_request_that_it_fits(wanted: list[str | None], slots: list[str]) -> None:
    queue = Queue(hold=30)
    waiting = []
    for index, variant in enumerate(wanted):
        entry = queue.add(request(str(index), variant), str(index), now=index)
        queue.arrive(entry)
        waiting.append(entry)
    for slot in slots:
        found = match(queue, [slot], lambda variant: variant)
        fitting = [entry for entry in waiting if entry.request.variant in (None, slot)]
        if not fitting:
            assert found is None
            continue
        assert found == (fitting[0], slot)
        queue.take(fitting[0])
        assert match(queue, [slot], lambda variant: variant) != found
        queue.remove(fitting[0])
        waiting.remove(fitting[0])
    assert len(queue) == len(waiting)


def test_a_request_keeps_its_place_but_is_only_served_while_somebody_waits() -> None:
    queue = Queue(hold=30)
    first, second = queue.add(request("a"), "1", now=0), queue.add(request("b"), "2", now=1)
    queue.arrive(first)
    queue.arrive(second)
    queue.leave(first, now=5)
    assert queue.first_for("red") is second
    queue.arrive(first)
    assert queue.first_for("red") is first
    assert [queue.position(entry) for entry in (first, second)] == [0, 1]
    queue.take(first)
    queue.put_back(first)
    assert queue.first_for("red") is first
    queue.leave(first, now=10)
    assert queue.sweep(39) == []
    assert queue.sweep(40) == [first]
    assert len(queue) == 1


def test_two_polls_of_one_request_are_both_there() -> None:
    queue = Queue(hold=30)
    entry = queue.add(request("a"), "1", now=0)
    queue.arrive(entry)
    queue.arrive(entry)
    queue.leave(entry, now=1)
    assert queue.first_for("red") is entry


def make_report(revision: int, state: SlotState = SlotState.FREE, **fields: object) -> MemberReport:
    values = {"name": "m", "uid": "u", "url": "http://m", "started_at": 1.0} | fields
    return MemberReport(revision=revision, slots=[SlotReport(index=0, state=state)], **values)


def make_grant(revision: int, started_at: float = 1.0) -> Grant:
    return Grant(
        lease_id="l",
        key="k",
        holder="h",
        slot=0,
        environment_url="",
        token="t",
        expires_at=10,
        revision=revision,
        uid="u",
        started_at=started_at,
    )


def test_a_grant_of_a_process_that_has_not_reported_yet_outlives_its_first_report() -> None:
    ledger = Ledger(lost_after=LOST_AFTER)
    ledger.report(make_report(2), now=0)
    grant = make_grant(revision=3, started_at=1.5)
    assert ledger.granted("m", grant, lease_of("m", grant))
    ledger.report(make_report(2, started_at=1.5), now=1)
    assert ledger.by_key("k") is not None
    assert ledger.members["m"].free == 0


def test_a_grant_of_a_process_that_is_gone_is_none() -> None:
    ledger = Ledger(lost_after=LOST_AFTER)
    ledger.report(make_report(2, started_at=2.0), now=0)
    grant = make_grant(revision=3)
    assert not ledger.granted("m", grant, lease_of("m", grant))


def test_members_take_turns() -> None:
    ledger = Ledger(lost_after=LOST_AFTER)
    for name in "abc":
        ledger.report(make_report(1, name=name), now=0)
    assert [ledger.next_member("default") for _ in range(6)] == ["a", "b", "c", "a", "b", "c"]


def test_a_report_of_an_earlier_process_is_ignored() -> None:
    ledger = Ledger(lost_after=LOST_AFTER)
    ledger.report(make_report(5, started_at=2.0), now=0)
    ledger.report(make_report(9, SlotState.QUARANTINED, started_at=1.0), now=1)
    assert ledger.members["m"].free == 1


def test_a_report_from_before_a_grant_does_not_free_the_slot() -> None:
    ledger = Ledger(lost_after=LOST_AFTER)
    ledger.report(make_report(1), now=0)
    grant = make_grant(revision=2)
    assert ledger.granted("m", grant, lease_of("m", grant))
    ledger.report(make_report(1), now=1)
    assert ledger.members["m"].free == 0
    assert ledger.by_key("k") is not None
    ledger.report(make_report(3), now=2)
    assert ledger.members["m"].free == 1
    assert ledger.by_key("k") is None


def test_a_member_that_refused_is_asked_again_after_its_next_report() -> None:
    ledger = Ledger(lost_after=LOST_AFTER)
    ledger.report(make_report(1), now=0)
    ledger.refused("m", suspect=False)
    assert ledger.variants_with_free() == []
    ledger.report(make_report(1), now=1)
    assert ledger.variants_with_free() == ["default"]


def test_a_lost_member_comes_back() -> None:
    ledger = Ledger(lost_after=LOST_AFTER)
    ledger.report(make_report(5), now=0)
    assert ledger.sweep(5.9) == []
    assert ledger.sweep(6.0) == ["m"]
    assert ledger.sweep(7.0) == []
    assert ledger.variants_with_free() == []
    ledger.report(make_report(5), now=8)
    assert ledger.variants_with_free() == ["default"]
    ledger.sweep(8 + FORGET_SECONDS)
    assert ledger.members == {}


def test_what_environments_did_outlives_the_members() -> None:
    ledger = Ledger(lost_after=LOST_AFTER)
    done = {"occupied_seconds": 2.5, "episodes": 3}
    ledger.report(make_report(1, environment=done), now=0)
    ledger.report(make_report(1, started_at=2.0, environment=done), now=1)
    ledger.goodbye("m", "other")
    assert "m" in ledger.members
    ledger.goodbye("m", "u")
    assert (ledger.environment().occupied_seconds, ledger.environment().episodes) == (5.0, 6)


def test_the_status_counts_slots_and_waits() -> None:
    ledger, queue = Ledger(lost_after=LOST_AFTER), Queue(hold=30)
    ledger.report(make_report(1), now=0)
    ledger.report(make_report(1, SlotState.QUARANTINED, name="n", variant="red"), now=0)
    queue.add(request("a", "blue"), "1", now=0)
    status = status_of(ledger, queue, [0.3, 0.1, 0.2], refused=2, uptime=9, now=1)
    assert (status.slots.total, status.slots.free, status.slots.quarantined) == (2, 1, 1)
    assert (status.variants["blue"].queued, status.variants["red"].members) == (1, 1)
    assert (status.wait_p50, status.wait_p99, status.refused, status.queued) == (0.2, 0.3, 2, 1)


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.25, 1.0), (0.5, 2.0), (0.51, 3.0), (0.99, 4.0)])
def test_quantiles(share: float, value: float) -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], share) == value
    assert quantile([], share) == 0.0


def test_a_row_that_is_silent_offers_nothing() -> None:
    row = MemberRow(make_report(1), last_seen=0, free_slots={0, 1})
    assert row.free == 2
    for name in ("suspect", "lost", "retiring"):
        setattr(row, name, True)
        assert row.free == 0
        setattr(row, name, False)
