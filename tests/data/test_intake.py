"""Records that cannot be trained on: refused at the door with the field, or a grader's fault; never a later 500."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shoal.api.services.trajectories import Claimed, DataStatus
from shoal_workers.data.manager import DataManager
from shoal_workers.data.server import make_service
from shoal_workers.service import ProblemError, ServiceClient, serving
from tests.data.play import ask, claim, config, record


@asynccontextmanager
async def desk(folder: Path) -> AsyncIterator[tuple[DataManager, ServiceClient, list[str]]]:
    """A data manager behind its socket, and the two assignments of one group."""
    manager = DataManager(config(folder, batch_groups=1, max_staleness=0, max_consecutive_faults=100))
    async with serving(make_service(manager, None)) as url, ServiceClient(url) as client:
        claimed = await client.post("/assignments:claim", claim(count=2), Claimed)
        yield manager, client, [each.id for each in claimed.assignments]


def changed(name: str, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(record(name).model_dump_json())
    segment = body["segments"][0]
    for key, value in changes.items():
        (segment if key in segment else body)[key] = value
    return body


REWARDS = ["NaN", "Infinity", "-Infinity", "null", '"1.0"', "1e999", "true", None]


@pytest.mark.parametrize("reward", REWARDS)
async def test_a_reward_that_is_no_number_is_the_graders_fault(tmp_path: Path, reward: str | None) -> None:
    async with desk(tmp_path) as (manager, client, (name, _)):
        body = changed(name)
        del body["reward"]
        text = json.dumps(body)
        if reward is not None:
            text = text[:-1] + f', "reward": {reward}}}'
        with pytest.raises(ProblemError) as caught:
            await client.call("POST", "/trajectories", text.encode())
        status = await manager.status()
    assert (caught.value.status, caught.value.name) == (422, "invalid-request")
    assert "reward" in caught.value.detail
    assert status.outcomes == {"grader_error": 1}
    assert status.trajectories == {"pending": 1, "assigned": 1}


SAMPLED = {"start": 2, "end": 4}
WRONG = [
    ({"logprobs": [0.0, 0.0, float("nan"), -1.0]}, "segments[0].logprobs[2]"),
    ({"logprobs": [0.0, 0.0, -1.0, float("-inf")]}, "segments[0].logprobs[3]"),
    ({"logprobs": [0.0, 0.0, 5.0, -1.0]}, "segments[0].logprobs[2]"),
    ({"token_ids": [5, -1, 7, 8]}, "segments[0].token_ids[1]"),
    ({"token_ids": [5, 2**40, 7, 8]}, "segments"),
    ({"loss_mask": [0, 0, 2, 1]}, "segments[0].loss_mask[2]"),
    ({"loss_mask": [0, 0, -1, 1]}, "segments"),
    ({"loss_mask": [0, 0, 0, 0]}, "segments"),
    ({"versions": [{**SAMPLED, "version": 3}]}, "segments[0].versions[2]"),
    ({"versions": [{**SAMPLED, "version": 2**40}]}, "segments"),
    ({"outcome": "engine_error"}, "outcome"),
]


@pytest.mark.parametrize(("change", "field"), WRONG)
async def test_a_record_that_cannot_be_trained_on_is_refused_by_field(
    tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    async with desk(tmp_path) as (manager, client, (name, other)):
        with pytest.raises(ProblemError) as caught:
            await client.call("POST", "/trajectories", json.dumps(changed(name, **change)).encode())
        assert caught.value.status == 422
        assert field in caught.value.detail
        for each in (name, other):
            await client.call("POST", "/trajectories", record(each))
        batch = await manager.lease_batch(ask(groups=1))
    assert batch is not None
    assert [each.id for each in batch.groups[0].trajectories] == sorted([name, other])


async def test_versions_may_run_ahead_of_the_trainers_report_by_two(tmp_path: Path) -> None:
    async with desk(tmp_path) as (_, client, (name, _)):
        await client.call("POST", "/trajectories", record(name, version=2))


async def test_tokens_outside_the_trainers_vocabulary_are_quarantined_and_then_refused(tmp_path: Path) -> None:
    async with desk(tmp_path) as (manager, client, names):
        for name in names:
            await client.call("POST", "/trajectories", record(name))
        small = ask(groups=1).model_copy(update={"vocabulary": 8})
        assert await manager.lease_batch(small) is None
        status = await client.get("/status", DataStatus)
        assert status.dropped == {"damaged": 2}
        (finding,) = status.findings
        assert finding.reason == "DamagedTrajectories"
        assert "token 8 is outside" in finding.message
        claimed = await client.post("/assignments:claim", claim(count=1), Claimed)
        with pytest.raises(ProblemError, match="outside the vocabulary of 8"):
            await client.call("POST", "/trajectories", record(claimed.assignments[0]))


async def test_damaged_tokens_are_left_out_of_every_batch(tmp_path: Path) -> None:
    manager = DataManager(config(tmp_path, batch_groups=1, max_staleness=1))
    claimed = (await manager.claim(claim(4))).assignments
    for assignment in claimed:
        await manager.record(record(assignment))
    file = next((tmp_path / "store" / "tokens").iterdir())
    content = bytearray(file.read_bytes())
    content[-1] ^= 0xFF
    file.write_bytes(content)
    batch = await manager.lease_batch(ask(groups=1))
    assert batch is not None
    assert {each.id for each in batch.groups[0].trajectories} == {each.id for each in claimed[:2]}
    assert await manager.lease_batch(ask(groups=1)) is None
    status = await manager.status()
    assert status.dropped == {"damaged": 2}
    assert "checksum" in status.findings[0].message
    assert (await manager.report()).proof.holds
    manager.close()


async def test_a_fault_report_names_a_fault(tmp_path: Path) -> None:
    async with desk(tmp_path) as (_, client, (name, _)):
        with pytest.raises(ProblemError, match="ok is no fault"):
            await client.call("POST", f"/assignments/{name}:fail", {"outcome": "ok"})
