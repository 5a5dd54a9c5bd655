"""The pass that every kind fills in."""

import json
import logging

import pytest

from shoal.builders.owner import Owner
from shoal.controllers.scaffold import decided
from shoal.planner.actions import CreatePod, DeletePod, Event, Plan
from tests.controllers.test_idle import MEMBERS, Cluster, FakeServer

OWNER = Owner("EnvironmentPool", "p", "n", "u1", "rl.shoal.dev/pool")


def test_what_a_pass_decided_is_counted_by_kind_of_action() -> None:
    actions = (
        CreatePod("environment", {}),
        CreatePod("environment", {}),
        DeletePod("broker", "p-broker", "u2", "TemplateChanged"),
        Event("Normal", "Available", "2 of 2 members are ready"),
    )
    line = decided(OWNER, Plan(actions, {"replicas": 2, "endpoint": "http://x"}, 1.0))
    assert line == {
        "kind": "EnvironmentPool",
        "namespace": "n",
        "name": "p",
        "actions": {"CreatePod": 2, "DeletePod": 1},
        "events": ["Available: 2 of 2 members are ready"],
        "status": {"replicas": 2},
        "againInSeconds": 1.0,
    }


async def test_each_pass_logs_one_line_of_json_at_debug_and_none_above(caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer()
    async with server.client() as client:
        cluster = Cluster(server, client)
        with caplog.at_level(logging.INFO, "shoal.controllers.scaffold"):
            await cluster.work()
        assert [record for record in caplog.records if record.name == "shoal.controllers.scaffold"] == []
        with caplog.at_level(logging.DEBUG, "shoal.controllers.scaffold"):
            await cluster.work()
    (record,) = [record for record in caplog.records if record.name == "shoal.controllers.scaffold"]
    line = json.loads(record.getMessage().removeprefix("decided "))
    assert (line["kind"], line["status"]["desiredReplicas"]) == ("EnvironmentPool", MEMBERS)


async def test_a_resource_that_is_being_deleted_is_left_alone() -> None:
    server = FakeServer()
    server.pool["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    async with server.client() as client:
        cluster = Cluster(server, client)
        assert await cluster.work() is None
    assert server.requests == []
