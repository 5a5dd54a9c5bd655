"""Whoever runs inside a member or an engine can read its token: that token reports, and opens nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shoal.api.labels import Role
from shoal.api.services.roles.broker import BrokerConfig
from shoal.api.services.roles.gateway import GatewayConfig
from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.api.v1alpha1.rolloutfleet import RolloutFleetSpec
from shoal.builders import environment, fleet, job
from shoal.builders.images import Images
from shoal_workers.broker.server import make_service as make_broker
from shoal_workers.gateway.server import make_gateway
from shoal_workers.service import ProblemError, ServiceClient, serving
from tests.api.samples import FLEET, JOB, POOL

SERVICE, WORKER = "of the service", "of its workers"


@pytest.fixture(params=["broker", "gateway"])
async def service(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, str]]:
    """URL of a running service, and the path of its workers' reports."""
    if request.param == "broker":
        async with serving(make_broker(BrokerConfig(pool="lake"), SERVICE, WORKER)) as url:
            yield url, "/members/one"
    else:
        config = GatewayConfig(fleet="policy", served_name="policy")
        async with serving(make_gateway(config, SERVICE, WORKER).service) as url:
            yield url, "/engines/one"


async def problem(url: str, token: str | None, method: str, path: str) -> str:
    """The name of the problem that a request without a body meets."""
    async with ServiceClient(url, token=token, retries=0) as client:
        with pytest.raises(ProblemError) as caught:
            await client.call(method, path)
    return caught.value.name


async def test_a_workers_token_reports_and_does_nothing_else(service: tuple[str, str]) -> None:
    url, path = service
    # Past the door the empty body is what is wrong.
    assert await problem(url, WORKER, "PUT", path) == "invalid-request"
    for method, other in (
        ("POST", "/leases"),
        ("POST", "/generate"),
        ("PUT", "/weights/target"),
        ("GET", "/sessions/s"),
    ):
        assert await problem(url, WORKER, method, other) == "unauthorized"
    for action in ("retire", "drain"):
        assert await problem(url, WORKER, "POST", f"{path}:{action}") == "unauthorized"


async def test_the_services_token_makes_no_worker(service: tuple[str, str]) -> None:
    url, path = service
    for token in (SERVICE, "wrong", None):
        assert await problem(url, token, "PUT", path) == "unauthorized"
        assert await problem(url, token, "DELETE", path) == "unauthorized"


def test_pods_hold_the_tokens_of_those_that_they_call_and_no_others() -> None:
    pool, rollout, training = (
        EnvironmentPoolSpec.model_validate(POOL["spec"]),
        RolloutFleetSpec.model_validate(FLEET["spec"]),
        RLJobSpec.model_validate(JOB["spec"]),
    )
    lake = environment.pool_owner("lake", "team", "u1")
    policy = fleet.fleet_owner("policy", "team", "u2")
    train = job.job_owner("train", "team", "u3-45678")
    images = Images()
    held = {
        Role.ENVIRONMENT: environment.build_members(lake, pool, images)["default"],
        Role.BROKER: environment.build_broker(lake, pool, images),
        Role.ENGINE: next(iter(fleet.build_engines(policy, rollout, images).values())),
        Role.GATEWAY: fleet.build_gateway(policy, rollout, images),
        Role.AGENT: job.build_agent(train, training, images),
    }
    secrets = {
        role: {
            each["valueFrom"]["secretKeyRef"]["name"]
            for each in pod["spec"]["containers"][0]["env"]
            if "secretKeyRef" in each.get("valueFrom", {})
        }
        for role, pod in held.items()
    }
    assert secrets[Role.ENVIRONMENT] == {"lake-environment-token"}
    assert secrets[Role.BROKER] == {"lake-token", "lake-environment-token"}
    assert secrets[Role.ENGINE] == {"policy-engine-token"}
    assert secrets[Role.GATEWAY] == {"policy-token", "policy-engine-token"}
    assert not any(name.endswith(("-environment-token", "-engine-token")) for name in secrets[Role.AGENT])
