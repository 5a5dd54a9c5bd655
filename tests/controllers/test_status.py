"""When a status is written: turns at once, numbers now and then, nothing when nothing changed."""

from __future__ import annotations

from typing import Any, cast

import pytest

from shoal.controllers.status import NUMBERS_SECONDS, StatusWriter
from shoal.kube.client import KubeClient
from shoal.kube.resources import ENVIRONMENT_POOLS, Resource
from tests.engine.fake_clock import FakeClock

Json = dict[str, Any]


class FakeClient:
    """Takes status patches and counts up the version."""

    def __init__(self) -> None:
        self.patches: list[Json] = []

    async def patch_status(self, resource: Resource, name: str, status: Json, namespace: str) -> Json:
        self.patches.append(status)
        return {"metadata": {"resourceVersion": str(100 + len(self.patches))}}


class Writing:
    """A writer over a client that remembers, a clock that stands still, and a cache that lags behind."""

    def __init__(self) -> None:
        self.client = FakeClient()
        self.clock = FakeClock()
        self.writer = StatusWriter(cast(KubeClient, self.client), self.clock)
        self.body: Json = {
            "metadata": {"uid": "u", "name": "p", "namespace": "n", "resourceVersion": "100"},
            "status": status(0),
        }

    async def write(self, wanted: Json) -> bool:
        return await self.writer.write(ENVIRONMENT_POOLS, self.body, wanted)


def status(ready: int, available: str = "False") -> Json:
    return {
        "readyReplicas": ready,
        "latency": {"p50": f"0.{ready:03}"},
        "conditions": [{"type": "Available", "status": available, "message": f"{ready} of 9 members are ready"}],
    }


async def test_an_unchanged_status_is_not_written() -> None:
    writing = Writing()
    assert not await writing.write(status(0))
    assert writing.client.patches == []
    assert writing.writer.due_in("u") is None


async def test_numbers_are_written_at_once_and_then_only_now_and_then() -> None:
    writing = Writing()
    assert await writing.write(status(1))
    writing.clock.jump(0.1)
    assert not await writing.write(status(2))
    assert writing.writer.due_in("u") == pytest.approx(NUMBERS_SECONDS - 0.1)
    writing.clock.jump(NUMBERS_SECONDS)
    assert writing.writer.due_in("u") == 0.0
    assert await writing.write(status(3))
    assert writing.writer.due_in("u") is None
    assert [patch["readyReplicas"] for patch in writing.client.patches] == [1, 3]


async def test_a_condition_that_turns_is_told_at_once() -> None:
    writing = Writing()
    assert await writing.write(status(1))
    assert await writing.write(status(2, "True"))
    assert len(writing.client.patches) == 2


async def test_numbers_that_came_back_leave_nothing_to_write() -> None:
    writing = Writing()
    assert await writing.write(status(1))
    assert not await writing.write(status(2))
    assert not await writing.write(status(1))
    assert writing.writer.due_in("u") is None


async def test_the_pace_holds_when_the_cache_shows_the_last_write() -> None:
    writing = Writing()
    assert await writing.write(status(1))
    writing.body = {"metadata": {**writing.body["metadata"], "resourceVersion": "101"}, "status": status(1)}
    assert not await writing.write(status(2))
    assert writing.writer.due_in("u") == NUMBERS_SECONDS


async def test_what_others_wrote_counts_once_the_cache_shows_it() -> None:
    writing = Writing()
    assert await writing.write(status(1))
    writing.body = {"metadata": {**writing.body["metadata"], "resourceVersion": "105"}, "status": {}}
    assert writing.writer.current(writing.body) == {}
    assert await writing.write(status(1))


async def test_an_object_that_is_gone_is_forgotten() -> None:
    writing = Writing()
    assert await writing.write(status(1))
    assert not await writing.write(status(2))
    writing.writer.forget("u")
    assert writing.writer.due_in("u") is None
