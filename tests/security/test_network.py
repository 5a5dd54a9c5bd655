"""Every flow that Shoal has, and the ones that nobody may have, against the policies and the labels of built pods."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from shoal.api.labels import PORTS, Role
from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec, Isolation, Network
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.api.v1alpha1.rolloutfleet import RolloutFleetSpec
from shoal.builders import environment, fleet, job
from shoal.builders.images import Images
from shoal.builders.network import NetworkSettings, fleet_policies, job_policies, pool_policies
from tests.api.samples import FLEET, JOB, POOL
from tests.kubernetes import Kubernetes
from tests.security.policies import End, Json, passes

NAMESPACE = "team"
IMAGES = Images()
SETTINGS = NetworkSettings(operator_namespace="shoal-system", scrapers=["monitoring"])
POOL_OWNER = environment.pool_owner("lake", NAMESPACE, "u1")
FLEET_OWNER = fleet.fleet_owner("policy", NAMESPACE, "u2")
JOB_OWNER = job.job_owner("train", NAMESPACE, "u3-45678")


def _spec(model: Any, sample: Json) -> Any:
    return model.model_validate(sample["spec"])


def _end(pod: Json, namespace: str = NAMESPACE) -> End:
    return End(pod["metadata"].get("name", "pod"), pod["metadata"]["labels"], namespace)


def _pods() -> dict[str, End]:
    """One really built pod of each role."""
    pool, rollout, training = (
        _spec(EnvironmentPoolSpec, POOL), _spec(RolloutFleetSpec, FLEET), _spec(RLJobSpec, JOB)
    )  # fmt: skip
    return {
        Role.ENVIRONMENT: _end(environment.build_members(POOL_OWNER, pool, IMAGES)["default"]),
        Role.BROKER: _end(environment.build_broker(POOL_OWNER, pool, IMAGES)),
        Role.GATEWAY: _end(fleet.build_gateway(FLEET_OWNER, rollout, IMAGES)),
        Role.ENGINE: _end(next(iter(fleet.build_engines(FLEET_OWNER, rollout, IMAGES).values()))),
        Role.DATA: _end(job.build_data(JOB_OWNER, training, IMAGES)),
        Role.AGENT: _end(job.build_agent(JOB_OWNER, training, IMAGES)),
        Role.TRAINER: _end(job.build_trainer(JOB_OWNER, training, IMAGES)),
    }


PODS = _pods()
OPERATOR = End("operator", {"app.kubernetes.io/component": "operator"}, "shoal-system")
DNS = End("dns", {"k8s-app": "kube-dns"}, "kube-system")
PROMETHEUS = End("prometheus", {"app": "prometheus"}, "monitoring")
STRANGER = End("stranger", {"app": "web"}, NAMESPACE)
IMPOSTOR = End("impostor", PODS[Role.AGENT].labels, "other")
API_SERVER = End("api server", address="10.96.0.1")
METADATA = End("cloud metadata", address="169.254.169.254")
TRANSLATED = End("cloud metadata by NAT64", address="64:ff9b::a9fe:a9fe")
LOCAL = End("a unique local address", address="fd00:ec2::254")
FAR = End("the internet by IPv6", address="2606:4700::1111")
FAR_TRANSLATED = End("the internet by NAT64", address="64:ff9b::101:101")
WEB = End("internet", address="93.184.215.14")


def policies(network: Network = Network.DENY) -> list[Json]:
    return [
        *pool_policies(POOL_OWNER, Isolation(network=network), SETTINGS),
        *fleet_policies(FLEET_OWNER, SETTINGS),
        *job_policies(JOB_OWNER, SETTINGS, foreign_ray=False),
    ]


FLOWS = {
    (Role.ENVIRONMENT, Role.BROKER): "registers",
    (Role.BROKER, Role.ENVIRONMENT): "grants and takes back leases",
    (Role.AGENT, Role.BROKER): "leases",
    (Role.AGENT, Role.ENVIRONMENT): "acts",
    (Role.AGENT, Role.GATEWAY): "samples",
    (Role.AGENT, Role.DATA): "takes assignments, hands in trajectories",
    (Role.ENGINE, Role.GATEWAY): "registers",
    (Role.GATEWAY, Role.ENGINE): "generates, replaces weights",
    (Role.TRAINER, Role.DATA): "leases batches",
    (Role.TRAINER, Role.GATEWAY): "publishes weights",
}
"""Who calls whom, by the configuration that each role gets: nobody else has an address to call."""


@pytest.mark.parametrize(("source", "target"), list(itertools.product(PODS, PODS)))
def test_roles_reach_those_alone_that_they_have_to_call(source: str, target: str) -> None:
    wanted = (source, target) in FLOWS
    assert passes(policies(), PODS[source], PODS[target], PORTS[target]) is wanted


@pytest.mark.parametrize("role", PODS)
def test_the_operator_asks_services_and_nobody_else_does(role: str) -> None:
    asked = role in (Role.BROKER, Role.GATEWAY, Role.DATA)
    assert passes(policies(), OPERATOR, PODS[role], PORTS[role]) is asked
    for outsider in (STRANGER, IMPOSTOR, WEB):
        assert not passes(policies(), outsider, PODS[role], PORTS[role])


@pytest.mark.parametrize("role", PODS)
def test_metrics_are_read_from_the_named_namespaces(role: str) -> None:
    assert passes(policies(), PROMETHEUS, PODS[role], PORTS[role]) is (role != Role.ENVIRONMENT)


@pytest.mark.parametrize("network", Network)
def test_an_environment_reaches_what_its_isolation_says(network: Network) -> None:
    member = PODS[Role.ENVIRONMENT]
    assert passes(policies(network), member, DNS, 53, "UDP")
    assert passes(policies(network), member, WEB, 443) is (network is Network.INTERNET)
    assert passes(policies(network), member, STRANGER, 80) is (network is Network.CLUSTER_INTERNAL)
    for inside in (METADATA, TRANSLATED, LOCAL):
        assert not passes(policies(network), member, inside, 80)
    for outside in (FAR, FAR_TRANSLATED):
        assert passes(policies(network), member, outside, 443) is (network is Network.INTERNET)
    assert not passes(policies(network), member, API_SERVER, 443)
    # Whatever it may reach outside, the planes stay closed to it.
    for role in (Role.GATEWAY, Role.ENGINE, Role.DATA, Role.TRAINER, Role.AGENT):
        assert not passes(policies(network), member, PODS[role], PORTS[role])


def test_a_trainer_that_a_foreign_ray_cluster_calls_back_is_open() -> None:
    names = [policy["metadata"]["name"] for policy in job_policies(JOB_OWNER, SETTINGS, foreign_ray=True)]
    assert names == ["train-data", "train-agent"]


def test_without_an_operator_in_the_cluster_nobody_is_let_in_by_an_empty_rule() -> None:
    made = job_policies(JOB_OWNER, NetworkSettings(), foreign_ray=False)
    assert all(rule.get("from") for policy in made for rule in policy["spec"]["ingress"])
    assert not passes(made, STRANGER, PODS[Role.TRAINER], PORTS[Role.TRAINER])


def test_switched_off_makes_none() -> None:
    off = NetworkSettings(enabled=False)
    made = [pool_policies(POOL_OWNER, Isolation(), off), fleet_policies(FLEET_OWNER, off)]
    assert made == [[], []]
    assert job_policies(JOB_OWNER, off, foreign_ray=False) == []


def test_the_real_api_server_takes_every_policy(kubernetes: Kubernetes) -> None:
    for network in Network:
        for policy in policies(network):
            policy["metadata"] |= {"namespace": kubernetes.namespace, "ownerReferences": []}
            kubernetes.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(policy))
