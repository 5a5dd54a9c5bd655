"""An operator that the cluster denies something: one message, a condition, and on by itself once it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.kube.resources import ENVIRONMENT_POOLS, RL_JOBS
from tests.api.samples import JOB, POOL
from tests.controllers.accounts import account, grant
from tests.controllers.watched import complaints, definition, install, operating, remove, schema
from tests.kubernetes import Kubernetes


async def test_a_missing_definition_stops_only_what_needs_it(
    cluster: Kubernetes, caplog: pytest.LogCaptureFixture
) -> None:
    remove(cluster.server, RL_JOBS)
    async with operating(cluster) as watched:
        await watched.client.apply(ENVIRONMENT_POOLS, POOL, cluster.namespace)
        await watched.until_filled()
        await watched.until_hindered(str(RL_JOBS), "shoal crds | kubectl apply --server-side -f -")
        assert (await watched.degraded(ENVIRONMENT_POOLS))["status"] == "False"
        assert len([each for each in complaints(caplog) if "Definition" in each or "Permission" in each]) == 1
        assert "DefinitionMissing" in complaints(caplog)[0]
        install(cluster.server, definition(RL_JOBS))
        await watched.until_ready()
        await watched.client.apply(RL_JOBS, JOB, cluster.namespace)

        async def seen() -> bool:
            return bool((await watched.client.get(RL_JOBS, "sample", cluster.namespace)).get("status"))

        await watched.until("the job is worked on", seen)
        assert len([each for each in complaints(caplog) if "Definition" in each or "Permission" in each]) == 1


async def test_a_definition_that_goes_and_comes_back_holds_its_controllers(cluster: Kubernetes) -> None:
    async with operating(cluster) as watched:
        await watched.client.apply(RL_JOBS, JOB, cluster.namespace)
        await watched.until_ready()
        remove(cluster.server, ENVIRONMENT_POOLS)
        await watched.until_hindered(str(ENVIRONMENT_POOLS))
        # The job's plan reads pools, so nobody plans for it; it is told all the same.
        await watched.until_degraded(RL_JOBS, "DefinitionMissing", str(ENVIRONMENT_POOLS))
        install(cluster.server, definition(ENVIRONMENT_POOLS))
        await watched.until_ready()
        # The job's own trouble is told again: the fleet that it names does not exist.
        await watched.until_degraded(RL_JOBS, "DependencyDegraded", "fleet")
        await watched.client.apply(ENVIRONMENT_POOLS, POOL, cluster.namespace)
        await watched.until_filled()


async def test_an_older_definition_is_named_with_its_fields(
    cluster: Kubernetes, caplog: pytest.LogCaptureFixture
) -> None:
    older = definition(ENVIRONMENT_POOLS)
    del schema(older)["spec"]["properties"]["suspend"]
    install(cluster.server, older)
    async with operating(cluster) as watched:
        await watched.client.apply(ENVIRONMENT_POOLS, POOL, cluster.namespace)
        await watched.until_degraded(ENVIRONMENT_POOLS, "DefinitionOutdated", "spec.suspend", "shoal crds |")
        await watched.until_hindered("spec.suspend")
        await watched.until_filled()
        install(cluster.server, definition(ENVIRONMENT_POOLS))
        await watched.until_ready()
        await watched.until_fine(ENVIRONMENT_POOLS)
        assert len([each for each in complaints(caplog) if "Definition" in each or "Permission" in each]) == 1


async def test_a_missing_permission_to_act_is_told_on_the_object(
    cluster: Kubernetes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kubeconfig = account(cluster, tmp_path)
    grant(cluster, ("create", "pods"))
    async with operating(cluster, kubeconfig) as watched:
        await watched.client.apply(ENVIRONMENT_POOLS, POOL, cluster.namespace)
        name = f"system:serviceaccount:{cluster.namespace}:operator"
        await watched.until_degraded(
            ENVIRONMENT_POOLS, "PermissionMissing", name, f"in namespace {cluster.namespace}: pods (create)"
        )
        await watched.until_hindered("pods (create)")
        assert await watched.members() == 0
        grant(cluster)
        await watched.until_filled()
        await watched.until_fine(ENVIRONMENT_POOLS)
        await watched.until_ready()
        assert len([each for each in complaints(caplog) if "PermissionMissing" in each]) == 1


async def test_a_missing_permission_to_look_holds_what_would_act_blindly(
    cluster: Kubernetes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kubeconfig = account(cluster, tmp_path)
    grant(cluster, ("list", "secrets"))
    async with operating(cluster, kubeconfig) as watched:
        await watched.client.apply(ENVIRONMENT_POOLS, POOL, cluster.namespace)
        await watched.until_degraded(ENVIRONMENT_POOLS, "PermissionMissing", "secrets (list)")
        assert await watched.members() == 0
        assert len([each for each in complaints(caplog) if "Definition" in each or "Permission" in each]) == 1
        grant(cluster)
        await watched.until_filled()
        await watched.until_fine(ENVIRONMENT_POOLS)
        await watched.until_ready()


async def test_an_account_without_any_permission_waits(cluster: Kubernetes, tmp_path: Path) -> None:
    kubeconfig = account(cluster, tmp_path)
    async with operating(cluster, kubeconfig) as watched:
        await watched.client.apply(ENVIRONMENT_POOLS, POOL, cluster.namespace)
        await watched.until_hindered("environmentpools.rl.shoal.dev (list, watch", "more resources", "chart shoal")
        grant(cluster)
        await watched.until_filled()
        await watched.until_ready()


async def test_a_permission_taken_away_later_is_noticed(cluster: Kubernetes, tmp_path: Path) -> None:
    kubeconfig = account(cluster, tmp_path)
    grant(cluster)
    async with operating(cluster, kubeconfig) as watched:
        await watched.until_ready()
        grant(cluster, ("create", "pods"))
        await watched.client.apply(ENVIRONMENT_POOLS, POOL, cluster.namespace)
        await watched.until_degraded(ENVIRONMENT_POOLS, "PermissionMissing", "pods (create)")
        grant(cluster)
        await watched.until_filled()
        await watched.until_fine(ENVIRONMENT_POOLS)


async def test_where_no_replica_may_have_the_lease_each_says_so(cluster: Kubernetes, tmp_path: Path) -> None:
    kubeconfig = account(cluster, tmp_path)
    grant(cluster, *((verb, "leases") for verb in ("get", "create", "update")))
    async with operating(cluster, kubeconfig, leader_elect=True) as watched:
        await watched.client.apply(ENVIRONMENT_POOLS, POOL, cluster.namespace)
        await watched.until_degraded(ENVIRONMENT_POOLS, "PermissionMissing", "leases.coordination.k8s.io (get, create")
        grant(cluster)
        await watched.until_filled()
        await watched.until_fine(ENVIRONMENT_POOLS)
