"""Whoever runs inside a member, an engine or an agent can read its tokens: they open what it has to call, no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from shoal.api.labels import Role
from shoal.api.services.roles.broker import BrokerConfig
from shoal.api.services.roles.data import DataConfig
from shoal.api.services.roles.gateway import GatewayConfig
from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.api.v1alpha1.rolloutfleet import RolloutFleetSpec
from shoal.builders import environment, fleet, job
from shoal.builders.images import Images
from shoal_workers.broker.server import make_service as make_broker
from shoal_workers.data.manager import DataManager
from shoal_workers.data.server import make_service as make_data
from shoal_workers.gateway.server import make_gateway
from shoal_workers.service import ProblemError, Service, ServiceClient, open_session, serving
from tests.api.samples import FLEET, JOB, POOL

TRAIN = job.job_owner("train", "team", "u3-45678")
TRAINING = RLJobSpec.model_validate(JOB["spec"])
SERVICE, WORKER, AGENT = "of the service", "of its workers", "of agents"


@pytest.fixture(params=["broker", "gateway"])
async def service(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, str]]:
    """URL of a running service, and the path of its workers' reports."""
    if request.param == "broker":
        async with serving(make_broker(BrokerConfig(pool="lake"), SERVICE, WORKER, AGENT)) as url:
            yield url, "/members/one"
    else:
        config = GatewayConfig(fleet="policy", served_name="policy")
        async with serving(make_gateway(config, SERVICE, WORKER, AGENT).service) as url:
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


AGENTS = {
    "broker": [("POST", "/leases"), ("POST", "/leases/x:renew"), ("DELETE", "/leases/x")],
    "gateway": [("POST", "/generate"), ("POST", "/sessions/x/generate"), ("GET", "/sessions/x")],
    "data": [("POST", "/assignments:claim"), ("POST", "/assignments/x:fail"), ("POST", "/trajectories")],
}
OTHERS = {
    "broker": [("POST", "/members/one:retire"), ("PUT", "/members/one"), ("DELETE", "/members/one")],
    "gateway": [("PUT", "/weights/target"), ("GET", "/weights"), ("POST", "/engines/one:drain"), ("PUT", "/engines/e")],
    "data": [("POST", "/batches:lease"), ("POST", "/batches/x:ack"), ("POST", "/progress"), ("GET", "/report")],
}


@pytest.mark.parametrize("role", AGENTS)
async def test_an_agents_token_plays_episodes_and_does_nothing_else(role: str, tmp_path: Path) -> None:
    async with serving(make_role(role, tmp_path)) as url:
        for method, path in AGENTS[role]:
            assert await answer(url, AGENT, method, path) != 401
            assert await answer(url, WORKER, method, path) == 401
        for method, path in OTHERS[role]:
            assert await answer(url, AGENT, method, path) == 401


def make_role(role: str, folder: Path) -> Service:
    """A service with its three tokens."""
    if role == "broker":
        return make_broker(BrokerConfig(pool="lake"), SERVICE, WORKER, AGENT)
    if role == "gateway":
        return make_gateway(GatewayConfig(fleet="policy", served_name="policy"), SERVICE, WORKER, AGENT).service
    config = orjson.loads(job.build_data(TRAIN, TRAINING, Images())["spec"]["containers"][0]["env"][-1]["value"])
    return make_data(DataManager(DataConfig.model_validate({**config, "folder": str(folder)})), SERVICE, AGENT)


async def answer(url: str, token: str, method: str, path: str) -> int:
    """The status of a request without a body."""
    async with open_session() as session:
        headers = {"Authorization": f"Bearer {token}"}
        async with session.request(method, url + path, headers=headers) as response:
            return response.status


def test_pods_hold_the_tokens_of_those_that_they_call_and_no_others() -> None:
    pool, rollout, training = (
        EnvironmentPoolSpec.model_validate(POOL["spec"]),
        RolloutFleetSpec.model_validate(FLEET["spec"]),
        TRAINING,
    )
    lake = environment.pool_owner("lake", "team", "u1")
    policy = fleet.fleet_owner("policy", "team", "u2")
    train = TRAIN
    images = Images()
    held = {
        Role.ENVIRONMENT: environment.build_members(lake, pool, images)["default"],
        Role.BROKER: environment.build_broker(lake, pool, images),
        Role.ENGINE: next(iter(fleet.build_engines(policy, rollout, images).values())),
        Role.GATEWAY: fleet.build_gateway(policy, rollout, images),
        Role.AGENT: job.build_agent(train, training, images),
    }
    held[Role.DATA] = job.build_data(train, training, images)
    held[Role.TRAINER] = job.build_trainer(train, training, images)
    secrets = {role: secrets_of(pod) for role, pod in held.items()}
    (source,) = training.environments
    of_pool, of_fleet = job.pool_name("train", source), job.fleet_name("train", training)
    assert secrets == {
        Role.ENVIRONMENT: {"lake-pool-environment-token"},
        Role.BROKER: {"lake-pool-token", "lake-pool-environment-token", "lake-pool-agent-token"},
        Role.ENGINE: {"policy-fleet-engine-token"},
        Role.GATEWAY: {"policy-fleet-token", "policy-fleet-engine-token", "policy-fleet-agent-token"},
        Role.DATA: {"train-job-token", "train-job-agent-token"},
        Role.TRAINER: {"train-job-token", f"{of_fleet}-fleet-token"},
        Role.AGENT: {"train-job-agent-token", f"{of_fleet}-fleet-agent-token", f"{of_pool}-pool-agent-token"},
    }


def secrets_of(pod: dict[str, Any]) -> set[str]:
    """Names of all Secrets that a pod can read."""
    sources = [source for volume in pod["spec"]["volumes"] for source in volume.get("projected", {}).get("sources", [])]
    return {source["secret"]["name"] for source in sources}
