"""A pool may have its members run under another container runtime."""

from __future__ import annotations

from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec
from shoal.builders import environment
from shoal.builders.images import Images
from tests.api.samples import POOL

OWNER = environment.pool_owner("lake", "team", "u1")


def test_a_pools_members_run_under_its_runtime_class() -> None:
    spec = EnvironmentPoolSpec.model_validate(POOL["spec"] | {"isolation": {"runtimeClassName": "gvisor"}})
    member = environment.build_members(OWNER, spec, Images())["default"]
    assert member["spec"]["runtimeClassName"] == "gvisor"
    # The broker runs nothing that is not known.
    assert "runtimeClassName" not in environment.build_broker(OWNER, spec, Images())["spec"]


def test_without_one_the_cluster_decides() -> None:
    spec = EnvironmentPoolSpec.model_validate(POOL["spec"])
    assert "runtimeClassName" not in environment.build_members(OWNER, spec, Images())["default"]["spec"]
