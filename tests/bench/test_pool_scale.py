"""A small version of the benchmarks of scale, on a real control plane with fake nodes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.api_cost import AuditLog, Meter, Script, audit_flags, writes
from bench.cluster import ScaleCluster, namespace, running_cluster
from bench.contestants import MEMBERS, member_pod, operator
from bench.fake_broker import FakeBroker
from bench.pod_watch import PodWatch
from bench.pool_kill import killed_fill
from tests.kubernetes import ProgramsMissingError

MEMBERS_WANTED = 100
REPLACED = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scale") / "cluster"


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[ScaleCluster]:
    try:
        with running_cluster(folder, nodes=1, flags=audit_flags(folder)) as running:
            yield running
    except ProgramsMissingError as reason:
        pytest.skip(str(reason))


async def test_an_operator_killed_half_way_never_creates_too_many(cluster: ScaleCluster) -> None:
    async with cluster.client() as client:
        seen = await killed_fill(cluster, client, "kill", MEMBERS_WANTED, [MEMBERS_WANTED // 2], after=2.0)
    assert seen["members"] == MEMBERS_WANTED
    assert seen["above_target"] <= 0
    assert seen["gaps"] == 0


async def test_a_member_costs_few_requests_and_rest_costs_none(cluster: ScaleCluster, folder: Path) -> None:
    audit = AuditLog(folder / "audit.log")
    meter = Meter(cluster, audit, quiet=3.0)
    async with (
        cluster.client() as client,
        namespace(client, "cost", wait=False) as home,
        operator(cluster.operator_kubeconfig, folder / "operator.log"),
        PodWatch(client, home, MEMBERS).running() as watch,
    ):
        script = Script(client, home, watch, MEMBERS_WANTED, REPLACED)
        await meter.phase("fill", MEMBERS_WANTED, script.fill)
        async with FakeBroker(watch).running(client, home):
            await meter.phase("deleted", REPLACED, script.deleted)
            await meter.phase("failed", REPLACED, script.failed)
            await meter.phase("idle", MEMBERS_WANTED, lambda: asyncio.sleep(3))
    spent = {name: phase["writes_per_member"] for name, phase in meter.phases.items()}
    assert spent["fill"] <= 2, meter.phases["fill"]
    assert spent["deleted"] <= 4, meter.phases["deleted"]
    assert spent["failed"] <= 4, meter.phases["failed"]
    assert spent["idle"] == 0, meter.phases["idle"]
    assert watch.peak == MEMBERS_WANTED


def test_the_bare_client_and_the_peers_create_the_pods_that_the_operator_builds() -> None:
    pod = member_pod("n")
    assert pod["metadata"]["labels"]["rl.shoal.dev/role"] == "environment"
    assert pod["spec"]["restartPolicy"] == "Always"
    assert "ownerReferences" not in pod["metadata"]


def test_only_writes_count_as_writes() -> None:
    requests = Counter({"get pods": 3, "watch pods": 1, "list nodes": 1, "create pods": 2, "patch pools/status": 1})
    assert writes(requests) == 3
