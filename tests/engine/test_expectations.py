"""Expectations: a model test with a lagging cache that must never over-create, and the rules one by one."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal.engine.expectations import Expectations
from shoal.engine.keys import ObjectKey
from shoal.engine.store import Change, ChangeType, Store
from shoal.kube.errors import ForbiddenError, UnavailableError

TARGET = 5


def body(name: str, uid: str, version: int, *, deleting: bool = False) -> dict[str, object]:
    meta = {"namespace": "n", "name": name, "uid": uid, "resourceVersion": str(version)}
    return {"metadata": {**meta, "deletionTimestamp": "now"} if deleting else meta}


class LaggingCache(RuleBasedStateMachine):
    """A controller keeps TARGET objects while its cache shows the server's events late.

    `server` is the truth, `pending` the events the cache has not shown yet. Whatever the order of passes, events, lost
    answers and refusals, the server never holds more than TARGET objects, unless an expectation has expired.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.server: dict[str, str] = {}
        self.events: list[tuple[str, dict[str, object]]] = []
        self.store: Store[str] = Store(lambda each: each["metadata"]["name"])
        self.expectations: Expectations[str] = Expectations(expiry=60)
        self.version = 0

    def emit(self, kind: str, name: str, *, deleting: bool = False) -> None:
        self.version += 1
        self.events.append((kind, body(name, self.server[name], self.version, deleting=deleting)))

    def missing(self) -> int:
        pending = self.expectations.pending("pool", self.now)
        alive = [entry for entry in self.store.entries() if not entry.deleting and entry.uid not in pending.deletions]
        return TARGET - len(alive) - len(pending.creations)

    @rule(outcome=st.sampled_from(["done", "refused", "no answer, done", "no answer, not done"]))
    def pass_over_the_pool(self, outcome: str) -> None:
        for _ in range(self.missing()):
            name = f"p{self.version}-{len(self.server)}"
            self.expectations.expect_creation("pool", ObjectKey("n", name), self.now)
            if outcome in ("done", "no answer, done"):
                self.server[name] = f"uid-{name}"
                self.emit("ADDED", name)
            if outcome == "refused":
                self.expectations.creation_failed(ObjectKey("n", name), ForbiddenError("no", status=403))
            elif outcome.startswith("no answer"):
                self.expectations.creation_failed(ObjectKey("n", name), UnavailableError("reset"))
            if outcome == "no answer, not done":
                break

    @precondition(lambda self: self.store.values())
    @rule(data=st.data())
    def scale_in_one(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.store.entries()))
        if entry.deleting or self.expectations.pending("pool", self.now).deletions:
            return
        self.expectations.expect_deletion("pool", entry.uid, self.now)
        name = entry.key.name
        if name in self.server:
            self.emit("DELETED", name)
            del self.server[name]

    @precondition(lambda self: self.events)
    @rule()
    def cache_shows_one_event(self) -> None:
        kind, each = self.events.pop(0)
        entry = self.store.read(each)
        changes = self.store.remove(entry.key) if kind == "DELETED" else self.store.put(entry)
        for change in changes:
            self.expectations.observe(change)

    @rule(seconds=st.floats(0, 2))
    def pass_time(self, seconds: float) -> None:
        # Slowly enough that within one run nothing expires: expiry has its own test.
        self.now += seconds

    @invariant()
    def never_above_the_target(self) -> None:
        assert len(self.server) <= TARGET
        assert self.expectations.expired == 0


TestLaggingCache = LaggingCache.TestCase
TestLaggingCache.settings = settings(max_examples=150, stateful_step_count=29, deadline=None)


def test_counting_from_the_cache_alone_over_creates() -> None:
    """The same controller without expectations: what the model above protects from."""
    store: Store[str] = Store(lambda each: each["metadata"]["name"])
    created = 0
    for _ in range(3):  # three passes before the cache shows anything
        created += TARGET - len(store)
    assert created == 3 * TARGET


def make() -> tuple[Expectations[str], ObjectKey]:
    return Expectations(expiry=60), ObjectKey("n", "a")


def added(key: ObjectKey) -> Change[str]:
    store: Store[str] = Store(lambda _: "")
    return store.put(store.read(body(key.name, "u", 1)))[0]


def test_a_creation_counts_until_the_cache_shows_it() -> None:
    expectations, key = make()
    expectations.expect_creation("pool", key, 0, group="member")
    assert expectations.pending("pool", 1).counts() == {"member": 1}
    expectations.observe(added(key))
    assert expectations.satisfied("pool", 1)


def test_a_refused_creation_counts_no_longer_but_one_without_an_answer_does() -> None:
    expectations, key = make()
    expectations.expect_creation("pool", key, 0)
    expectations.creation_failed(key, UnavailableError("connection reset"))
    assert key in expectations.pending("pool", 1).creations
    expectations.creation_failed(key, ForbiddenError("quota", status=403))
    assert expectations.satisfied("pool", 1)


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "terminating"])
def test_a_deletion_is_settled_by_uid_when_the_object_is_gone_or_terminating(gone: bool) -> None:
    expectations, key = make()
    store: Store[str] = Store(lambda _: "")
    store.put(store.read(body("a", "old", 1)))
    expectations.expect_deletion("pool", "old", 0)
    expectations.observe(added(key))  # a younger object of the same name settles nothing
    assert expectations.pending("pool", 1).deletions == {"old"}
    changes = store.remove(key) if gone else store.put(store.read(body("a", "old", 2, deleting=True)))
    expectations.observe(changes[0])
    assert expectations.satisfied("pool", 1)


def test_an_object_replaced_in_a_gap_settles_the_deletion_of_the_old_one() -> None:
    expectations, key = make()
    store: Store[str] = Store(lambda _: "")
    store.put(store.read(body("a", "old", 1)))
    expectations.expect_deletion("pool", "old", 0)
    changes = store.replace({key: store.read(body("a", "new", 9))})
    assert [change.type for change in changes] == [ChangeType.DELETED, ChangeType.ADDED]
    for change in changes:
        expectations.observe(change)
    assert expectations.satisfied("pool", 1)


def test_what_nobody_settles_expires_and_says_when() -> None:
    expectations, key = make()
    expectations.expect_creation("pool", key, 10)
    expectations.expect_deletion("pool", "u", 20)
    assert expectations.next_expiry("pool") == 70
    assert expectations.pending("pool", 69.9)
    assert not expectations.pending("pool", 70).creations
    assert expectations.next_expiry("pool") == 80
    assert expectations.satisfied("pool", 80)
    assert expectations.expired == 2
    assert expectations.next_expiry("pool") is None


def test_owners_do_not_share_and_can_be_forgotten() -> None:
    expectations, key = make()
    expectations.expect_creation("one", key, 0)
    assert expectations.satisfied("two", 0)
    expectations.forget("one")
    assert expectations.satisfied("one", 0)
    expectations.observe(added(key))


@pytest.mark.parametrize("seconds", [0, 29, 301])
def test_an_expiry_out_of_bounds_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="30 to 300"):
        Expectations(expiry=seconds)
