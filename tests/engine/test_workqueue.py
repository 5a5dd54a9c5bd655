"""The work queue: a model test of its rules, and its behaviour towards waiting workers."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal.engine.workqueue import QueueClosedError, QueueState, WorkQueue
from tests.engine.fake_clock import FakeClock

KEYS = st.sampled_from("abcde")


class QueueModel(RuleBasedStateMachine):
    """The queue against the simplest description of it: who waits since when, who is due when, who is in work."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: QueueState[str] = QueueState(base=0.01, cap=1.0)
        self.now = 0.0
        self.waiting: list[str] = []
        self.again: list[str] = []
        self.working: set[str] = set()
        self.resting: dict[str, float] = {}
        self.due: dict[str, float] = {}
        self.failed: dict[str, int] = {}

    def model_add(self, key: str) -> None:
        if key in self.waiting or key in self.again:
            return
        (self.again if key in self.working or key in self.resting else self.waiting).append(key)

    @rule(key=KEYS)
    def add(self, key: str) -> None:
        self.queue.add(key)
        self.model_add(key)

    @rule(key=KEYS, seconds=st.floats(0.001, 10.0))
    def add_later(self, key: str, seconds: float) -> None:
        self.queue.add_at(key, self.now + seconds)
        self.due[key] = min(self.due.get(key, float("inf")), self.now + seconds)

    @rule(seconds=st.floats(0.0, 5.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.queue.wake(self.now)
        for key in [key for key, until in self.resting.items() if until <= self.now]:
            del self.resting[key]
            if key in self.again:
                self.again.remove(key)
                self.waiting.append(key)
        for key in sorted((key for key, when in self.due.items() if when <= self.now), key=lambda key: self.due[key]):
            del self.due[key]
            self.model_add(key)

    @rule()
    def take(self) -> None:
        key = self.queue.take()
        if key is None:
            assert not self.waiting
            return
        assert key not in self.working
        # Keys that fell due at the same instant may come in either order; otherwise first come, first served.
        assert key in self.waiting
        self.waiting.remove(key)
        self.working.add(key)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.working)))
        self.queue.done(key)
        self.working.discard(key)
        if key in self.again:
            self.again.remove(key)
            self.waiting.append(key)

    @precondition(lambda self: self.working)
    @rule(data=st.data(), seconds=st.floats(0.001, 5.0))
    def rest(self, data: st.DataObject, seconds: float) -> None:
        key = data.draw(st.sampled_from(sorted(self.working)))
        self.queue.done(key, self.now + seconds)
        self.working.discard(key)
        self.resting[key] = self.now + seconds

    @rule(key=KEYS)
    def fail(self, key: str) -> None:
        count = self.failed.get(key, 0)
        assert self.queue.fail(key) == pytest.approx(min(1.0, 0.01 * 2**count))
        self.failed[key] = count + 1

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.queue.forget(key)
        self.failed.pop(key, None)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert self.queue.ready == len(self.waiting) == len(set(self.waiting))
        assert self.queue.processing == self.working
        assert self.queue.delayed == len(self.due)
        ends = [until for key, until in self.resting.items() if key in self.again]
        assert self.queue.next_wake() == min([*self.due.values(), *ends], default=None)


TestQueueModel = QueueModel.TestCase
TestQueueModel.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_first_come_first_served() -> None:
    queue: QueueState[str] = QueueState()
    for key in "busy", "a", "busy", "b":
        queue.add(key)
    assert [queue.take(), queue.take(), queue.take()] == ["busy", "a", "b"]
    queue.add("busy")
    queue.add("c")
    queue.done("busy")
    assert [queue.take(), queue.take()] == ["c", "busy"]


async def test_a_resting_key_gathers_what_comes_and_goes_on_by_itself() -> None:
    clock = FakeClock()
    queue: WorkQueue[str] = WorkQueue(clock=clock)
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.done("a", rest=1.0)
    queue.add("b")
    assert await queue.get() == "b"
    worker = asyncio.create_task(queue.get())
    queue.add("a")
    clock.jump(0.9)
    await asyncio.sleep(0)
    assert not worker.done()
    clock.jump(0.2)
    assert await worker == "a"
    queue.done("a", rest=1.0)
    idle = asyncio.create_task(queue.get())
    clock.jump(0.5)
    queue.add("a")
    clock.jump(0.6)
    assert await idle == "a"


async def test_a_worker_waits_for_work() -> None:
    queue: WorkQueue[str] = WorkQueue()
    worker = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    assert await worker == "a"


async def test_a_key_added_in_work_comes_again_and_only_then() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("a")
    second = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert not second.done()
    queue.done("a")
    assert await second == "a"
    assert len(queue) == 0


async def test_a_wake_up_comes_at_its_time_and_the_earliest_counts() -> None:
    clock = FakeClock()
    queue: WorkQueue[str] = WorkQueue(clock=clock)
    queue.add_after("a", 60)
    queue.add_after("a", 5)
    queue.add_after("a", 30)
    worker = asyncio.create_task(queue.get())
    await clock.advance(4.9)
    assert not worker.done()
    await clock.advance(0.2)
    assert await worker == "a"
    queue.done("a")
    assert queue.delayed == 0


async def test_keys_that_fall_due_together_reach_as_many_workers() -> None:
    clock = FakeClock()
    queue: WorkQueue[str] = WorkQueue(clock=clock)
    workers = [asyncio.create_task(queue.get()) for _ in range(3)]
    for key in "abc":
        queue.add_after(key, 1)
    await clock.advance(1)
    assert sorted([await worker for worker in workers]) == ["a", "b", "c"]


async def test_back_off_doubles_and_is_forgotten() -> None:
    queue: WorkQueue[str] = WorkQueue(clock=FakeClock(), base=0.005, cap=1)
    assert [round(queue.add_rate_limited("a"), 3) for _ in range(10)] == [
        0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1, 1
    ]  # fmt: skip
    queue.forget("a")
    assert queue.add_rate_limited("a") == 0.005
    assert queue.failures("a") == 1


async def test_a_worker_that_is_cancelled_after_being_told_passes_the_key_on() -> None:
    queue: WorkQueue[str] = WorkQueue()
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()
    assert await second == "a"


async def test_close_sends_workers_home_and_join_waits_for_running_work() -> None:
    queue: WorkQueue[str] = WorkQueue(clock=FakeClock())
    queue.add("a")
    assert await queue.get() == "a"
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add_after("b", 1)
    queue.close()
    with pytest.raises(QueueClosedError):
        await waiting
    queue.add("c")
    with pytest.raises(QueueClosedError):
        await queue.get()
    joined = asyncio.create_task(queue.join())
    await asyncio.sleep(0)
    assert not joined.done()
    queue.done("a")
    await joined
