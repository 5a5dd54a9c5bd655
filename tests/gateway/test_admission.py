"""The queue in front of the engines."""

from __future__ import annotations

import asyncio

import pytest

from shoal_workers.gateway.admission import Admission
from shoal_workers.gateway.routing import make_router
from shoal_workers.service import ProblemError


def admission(per_engine: int = 2, queue_limit: int = 10) -> Admission:
    return Admission(make_router("LeastLoaded"), per_engine, queue_limit)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_places_are_counted_and_given_back() -> None:
    queue = admission()
    queue.set_places({"a": 1, "b": 1})
    names = [await queue.acquire("", [1]) for _ in range(4)]
    assert sorted(names) == ["a", "a", "b", "b"]
    waiting = asyncio.create_task(queue.acquire("", [1]))
    await settle()
    assert (queue.queued, queue.running) == (1, 4)
    queue.release("b")
    assert await waiting == "b"
    for name in ["a", "a", "b", "b"]:
        queue.release(name)
    assert (queue.queued, queue.running) == (0, 0)


async def test_first_come_first_served() -> None:
    queue = admission(per_engine=1)
    order: list[int] = []

    async def call(number: int) -> None:
        name = await queue.acquire("", [1])
        order.append(number)
        queue.release(name)

    tasks = [asyncio.create_task(call(number)) for number in range(5)]
    await settle()
    queue.set_places({"a": 0})
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]


async def test_refuses_beyond_the_limit() -> None:
    queue = admission(queue_limit=1)
    waiting = asyncio.create_task(queue.acquire("", [1]))
    await settle()
    with pytest.raises(ProblemError) as refused:
        await queue.acquire("", [1])
    assert (refused.value.name, refused.value.status, queue.refused) == ("queue-full", 429, 1)
    waiting.cancel()


async def test_who_wants_newer_weights_does_not_hold_up_the_others() -> None:
    queue = admission(per_engine=1)
    queue.set_places({"a": 1})
    newer = asyncio.create_task(queue.acquire("", [1], min_version=2))
    await settle()
    older = asyncio.create_task(queue.acquire("", [1]))
    assert await older == "a"
    queue.set_places({"a": 2})
    await settle()
    assert not newer.done()
    queue.release("a")
    assert await newer == "a"


async def test_avoids_who_just_failed_unless_there_is_no_other() -> None:
    queue = admission()
    queue.set_places({"a": 1, "b": 1})
    assert {await queue.acquire("", [1], avoid={"a"}) for _ in range(2)} == {"b"}
    assert await queue.acquire("", [1], avoid={"a"}) == "a"


async def test_a_caller_that_hangs_up_leaves_no_place_taken() -> None:
    queue = admission(per_engine=1)
    queue.set_places({"a": 1})
    await queue.acquire("", [1])
    gone, kept = (asyncio.create_task(queue.acquire("", [1])) for _ in range(2))
    await settle()
    gone.cancel()
    await settle()
    queue.release("a")
    assert await kept == "a"
    late = asyncio.create_task(queue.acquire("", [1]))
    await settle()
    queue.release("a")
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    assert queue.running == 0


async def test_a_stop_answers_everyone() -> None:
    queue = admission()
    tasks = [asyncio.create_task(queue.acquire("", [1])) for _ in range(3)]
    await settle()
    queue.drop_all(lambda: ProblemError("stopping", "", status=503))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, ProblemError) for result in results)
