"""What a pool's spec becomes in the configuration of its broker and members."""

from __future__ import annotations

import json
from typing import Any

from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec
from shoal.builders.environment import build_broker, build_members, pool_owner
from shoal.builders.images import Images

OWNER = pool_owner("pool", "default", "uid")


def config_of(pod: dict[str, Any]) -> dict[str, Any]:
    (text,) = (
        variable["value"] for variable in pod["spec"]["containers"][0]["env"] if variable["name"] == "SHOAL_CONFIG"
    )
    return json.loads(text)


def test_the_limits_of_a_lease_reach_member_broker_and_holder() -> None:
    lease = {"maxStepSeconds": 7200, "maxResetSeconds": 60, "maxEvaluateSeconds": 3600}
    spec = EnvironmentPoolSpec.model_validate(
        {"environment": {"protocol": "Gymnasium", "entrypoint": "FrozenLake-v1"}, "lease": lease}
    )
    (pod,) = build_members(OWNER, spec, Images()).values()
    config = config_of(pod)
    assert (config["step_timeout"], config["reset_timeout"], config["evaluate_timeout"]) == (7200, 60, 3600)
    assert config_of(build_broker(OWNER, spec, Images()))["answer_seconds"] == 10_800
