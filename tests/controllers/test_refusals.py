"""What the API server refuses is asked again more and more slowly, a single write first."""

import asyncio

import pytest

from shoal.controllers.refusals import FIRST_WINDOW, LONGEST_PAUSE, PAUSE_SECONDS, Pace, Refusals, ramp
from shoal.kube.errors import ForbiddenError
from shoal.planner.observed import Refused
from tests.engine.fake_clock import FakeClock

QUOTA = Refused("CreateRefused", "exceeded quota")
ERROR = ForbiddenError("exceeded quota", status=403)


class FakeQuota:
    """Takes so many writes and refuses the rest; counts those in flight."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.accepted = self.refused = self.flying = self.most = 0

    async def write(self, _: int) -> bool:
        self.flying += 1
        self.most = max(self.most, self.flying)
        await asyncio.sleep(0)
        self.flying -= 1
        if self.room <= 0:
            self.refused += 1
            return False
        self.room -= 1
        self.accepted += 1
        return True


async def test_a_quota_refuses_a_handful_of_five_hundred() -> None:
    clock, quota = FakeClock(), FakeQuota(10)
    refusals = Refusals(clock)
    pauses = []
    for _ in range(8):
        assert not refusals.waits("u", "environment")
        await ramp(range(500), quota.write, refusals.pace("u", "environment"), 32)
        refusals.refuse("u", "environment", QUOTA, ERROR)
        pause = refusals.retry_in("u")
        assert pause is not None
        pauses.append(pause)
        assert refusals.waits("u", "environment")
        clock.jump(pause)
    assert quota.accepted == 10
    assert quota.refused <= 10 + FIRST_WINDOW + 7
    assert pauses == [min(LONGEST_PAUSE, PAUSE_SECONDS * 2.0**number) for number in range(8)]


async def test_what_nobody_refuses_grows_to_full_speed() -> None:
    quota, pace = FakeQuota(1000), Pace()
    await ramp(range(1000), quota.write, pace, 32)
    assert (quota.accepted, quota.most, pace.window) == (1000, 32, 32)


async def test_a_success_ends_what_was_refused() -> None:
    refusals = Refusals(FakeClock())
    refusals.refuse("u", "environment", QUOTA, ERROR)
    assert refusals.of("u") == {"environment": QUOTA}
    refusals.accept("u", "environment")
    assert refusals.of("u") == {}
    assert (refusals.retry_in("u"), refusals.error("u")) == (None, None)
    assert refusals.pace("u", "environment").window == 1, "a single write tried first"


def test_refusals_of_one_moment_lengthen_the_pause_once() -> None:
    refusals = Refusals(FakeClock())
    for _ in range(5):
        refusals.refuse("u", "environment", QUOTA, ERROR)
    assert refusals.retry_in("u") == PAUSE_SECONDS


def test_causes_wait_apart_and_are_forgotten_when_nobody_wants_them() -> None:
    refusals = Refusals(FakeClock())
    refusals.refuse("u", "Service/a", QUOTA, ERROR)
    assert not refusals.waits("u", "environment")
    assert not refusals.waits("other", "Service/a")
    refusals.keep("u", lambda key: key == "environment")
    assert refusals.of("u") == {}


async def test_an_unexpected_error_ends_the_writes_and_is_raised() -> None:
    tried: list[int] = []

    async def write(number: int) -> bool:
        tried.append(number)
        raise RuntimeError("bug")

    with pytest.raises(RuntimeError):
        await ramp(range(100), write, Pace(window=2), 32)
    assert len(tried) == 2
