"""Built pods: what every role's pod has, and what the user's template changes."""

from functools import partial
from typing import Any

import orjson
import pytest

from shoal.api.labels import PORTS, PREVIOUS_TOKEN_KEY, ROLE, SPEC_HASH, TOKEN_KEY, TOKENS_VARIABLE, Role
from shoal.api.services.roles.agent import AgentConfig
from shoal.api.services.roles.broker import BrokerConfig
from shoal.api.services.roles.data import DataConfig
from shoal.api.services.roles.engine import EngineConfig
from shoal.api.services.roles.environment import EnvironmentConfig
from shoal.api.services.roles.gateway import GatewayConfig
from shoal.api.services.roles.trainer import TrainerConfig
from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.api.v1alpha1.rolloutfleet import RolloutFleetSpec
from shoal.builders import environment, fleet, job
from shoal.builders.children import build_service, build_tokens
from shoal.builders.images import Images
from tests.api.samples import FLEET, JOB, POOL
from tests.neighbours.fakes import neighbourhood

IMAGES = Images("1.2.3")
JOB_OWNER = job.job_owner("j", "ns", "0123456789")
POOL_OWNER = environment.pool_owner("p", "ns", "u1")
FLEET_OWNER = fleet.fleet_owner("f", "ns", "u2")


def pool(**changes: Any) -> EnvironmentPoolSpec:
    return EnvironmentPoolSpec.model_validate(POOL["spec"] | changes)


def rollout(**changes: Any) -> RolloutFleetSpec:
    return RolloutFleetSpec.model_validate(FLEET["spec"] | changes)


def training(**changes: Any) -> RLJobSpec:
    return RLJobSpec.model_validate(JOB["spec"] | changes)


PODS = {
    Role.BROKER: (environment.build_broker(POOL_OWNER, pool(), IMAGES), BrokerConfig),
    Role.ENVIRONMENT: (environment.build_members(POOL_OWNER, pool(), IMAGES)["default"], EnvironmentConfig),
    Role.GATEWAY: (fleet.build_gateway(FLEET_OWNER, rollout(), IMAGES), GatewayConfig),
    Role.ENGINE: (fleet.build_engines(FLEET_OWNER, rollout(), IMAGES)["default"], EngineConfig),
    Role.DATA: (job.build_data(JOB_OWNER, training(), IMAGES), DataConfig),
    Role.AGENT: (job.build_agent(JOB_OWNER, training(), IMAGES), AgentConfig),
    Role.TRAINER: (job.build_trainer(JOB_OWNER, training(), IMAGES), TrainerConfig),
}


def main_of(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = [each for each in pod["spec"]["containers"] if each["name"] == "main"]
    return dict(container)


def config_of(pod: dict[str, Any]) -> dict[str, Any]:
    (value,) = [each["value"] for each in main_of(pod)["env"] if each["name"] == "SHOAL_CONFIG"]
    return dict(orjson.loads(value))


@pytest.mark.parametrize("role", PODS)
def test_every_role_gets_a_configuration_it_can_read_and_listens_on_its_port(role: str) -> None:
    pod, model = PODS[role]
    config = model.model_validate(config_of(pod))
    assert config.port == PORTS[role]
    assert main_of(pod)["ports"][0]["containerPort"] == PORTS[role]
    assert pod["metadata"]["labels"][ROLE] == role
    assert pod["spec"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("role", PODS)
def test_tokens_come_from_secrets_alone(role: str) -> None:
    pod = PODS[role][0]
    (volume,) = [each for each in pod["spec"]["volumes"] if "projected" in each]
    for source in volume["projected"]["sources"]:
        paths = [item["path"] for item in source["secret"]["items"]]
        purpose = paths[0].partition("/")[0]
        assert paths == [f"{purpose}/{TOKEN_KEY}", f"{purpose}/{PREVIOUS_TOKEN_KEY}"]
    (mount,) = [each for each in main_of(pod)["volumeMounts"] if each["name"] == volume["name"]]
    assert mount["readOnly"]
    assert {"name": TOKENS_VARIABLE, "value": mount["mountPath"]} in main_of(pod)["env"]
    assert not any("secretKeyRef" in each.get("valueFrom", {}) for each in main_of(pod)["env"])


def test_equal_specs_give_equal_hashes_and_different_ones_do_not() -> None:
    def digest(**changes: Any) -> str:
        pod = environment.build_members(POOL_OWNER, pool(**changes), IMAGES)["default"]
        return str(pod["metadata"]["annotations"][SPEC_HASH])

    assert digest() == digest(scale={"max": 99}) == digest(suspend=True)
    assert digest() != digest(slotsPerMember=2)
    assert digest() != digest(template={"spec": {"nodeSelector": {"a": "b"}}})


def test_a_template_is_laid_over_and_cannot_take_the_labels_away() -> None:
    template = {
        "metadata": {"labels": {"team": "rl", ROLE: "mine"}},
        "spec": {"containers": [{"name": "main", "resources": {"limits": {"nvidia.com/gpu": 1}}}]},
    }
    pod = environment.build_members(POOL_OWNER, pool(template=template), IMAGES)["default"]
    assert pod["metadata"]["labels"]["team"] == "rl"
    assert pod["metadata"]["labels"][ROLE] == Role.ENVIRONMENT
    assert main_of(pod)["resources"] == {"limits": {"nvidia.com/gpu": 1}}
    assert main_of(pod)["command"] == ["python", "-m", "shoal_workers.environment"]


def test_variants_have_their_own_image_entrypoint_and_configuration() -> None:
    variants = [{"name": "a", "config": {"x": 2}}, {"name": "b", "image": "mine", "entrypoint": "Taxi-v3"}]
    environment_ = {"protocol": "Gymnasium", "entrypoint": "FrozenLake-v1", "config": {"x": 1, "y": 1}}
    pods = environment.build_members(POOL_OWNER, pool(environment=environment_, variants=variants), IMAGES)
    assert config_of(pods["a"])["environment"]["config"] == {"x": 2, "y": 1}
    assert main_of(pods["a"])["image"] == "shoal/environment:1.2.3"
    assert (main_of(pods["b"])["image"], config_of(pods["b"])["environment"]["entrypoint"]) == ("mine", "Taxi-v3")


def test_an_openenv_image_runs_beside_the_lease_guard() -> None:
    spec = pool(environment={"protocol": "OpenEnv", "image": "example/echo-env"})
    pod = environment.build_members(POOL_OWNER, spec, IMAGES)["default"]
    (beside,) = pod["spec"]["initContainers"]
    assert (beside["image"], beside["restartPolicy"]) == ("example/echo-env", "Always")
    assert main_of(pod)["image"] == "shoal/environment:1.2.3"
    assert config_of(pod)["environment"]["entrypoint"] == "http://$(POD_IP):8000"


@pytest.mark.parametrize("backend", ["Pod", "AgentSandbox"])
def test_an_openenv_image_is_restricted_unless_it_says_more_itself(backend: str) -> None:
    def security(**template: Any) -> dict[str, Any]:
        spec = pool(environment={"protocol": "OpenEnv", "image": "example/echo-env"}, backend=backend, **template)
        made = partial(neighbourhood().member, POOL_OWNER, spec)
        member = environment.build_members(POOL_OWNER, spec, IMAGES, made)["default"]["spec"]
        inner = member["podTemplate"]["spec"] if backend == "AgentSandbox" else member
        (beside,) = inner["initContainers"]
        return dict(beside["securityContext"])

    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert security() == restricted
    wider = {"capabilities": {"add": ["SYS_PTRACE"]}}
    own = {"initContainers": [{"name": "environment", "securityContext": wider}]}
    assert security(template={"spec": own}) == {**restricted, **wider}


def test_model_sources_become_volumes_or_names() -> None:
    def engine(source: str) -> dict[str, Any]:
        return fleet.build_engines(FLEET_OWNER, rollout(model={"source": source}), IMAGES)["default"]

    assert config_of(engine("hf:Qwen/Qwen3-4B"))["model"] == "Qwen/Qwen3-4B"
    local = engine("file:/models/tiny")
    assert local["spec"]["volumes"][0] == {"name": "model", "hostPath": {"path": "/models/tiny", "type": "Directory"}}
    assert config_of(local)["model"] == main_of(local)["volumeMounts"][0]["mountPath"]
    claim = engine("pvc:weights/qwen/4b")
    assert claim["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "weights"
    assert config_of(claim)["model"].endswith("/qwen/4b")


@pytest.mark.parametrize("role", PODS)
def test_every_pod_is_restricted_and_writes_to_scratch_volumes_alone(role: str) -> None:
    pod, _ = PODS[role]
    spec, container = pod["spec"], main_of(pod)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
    names = [volume["name"] for volume in spec["volumes"]]
    assert sorted(names) == sorted(mount["name"] for mount in container["volumeMounts"])


def test_a_template_may_give_an_environment_another_user() -> None:
    template = {"spec": {"securityContext": {"runAsUser": 1000, "runAsNonRoot": None}}}
    member = environment.build_members(POOL_OWNER, pool(template=template), IMAGES)["default"]
    assert member["spec"]["securityContext"]["runAsUser"] == 1000
    assert "runAsNonRoot" not in member["spec"]["securityContext"]


def test_a_job_of_the_same_name_has_another_folder() -> None:
    other = job.job_owner("j", "ns", "abcdefghij")
    assert job.folder(JOB_OWNER) != job.folder(other)


def test_owned_planes_take_model_and_storage_from_the_job_and_rest_with_it() -> None:
    spec = training(
        fleet={"template": {"spec": {}}}, environments=[{"name": "lake", "template": {"spec": POOL["spec"]}}]
    )
    for resting in (False, True):
        fleet_, pool_ = job.build_owned(JOB_OWNER, spec, resting=resting)
        assert fleet_["spec"]["model"]["source"] == JOB["spec"]["model"]["source"]
        assert fleet_["spec"]["storage"] == JOB["spec"]["storage"]
        assert (fleet_["spec"]["suspend"], pool_["spec"]["suspend"]) == (resting, resting)
        RolloutFleetSpec.model_validate(fleet_["spec"])
        EnvironmentPoolSpec.model_validate(pool_["spec"])


def test_the_token_secrets_have_no_hash_so_that_they_are_written_once() -> None:
    built = build_tokens(POOL_OWNER, Role.ENVIRONMENT, Role.AGENT)
    names = [f"{POOL_OWNER.name}-pool-{role}token" for role in ("", "environment-", "agent-")]
    assert [secret["metadata"]["name"] for secret in built] == names
    assert len({secret["data"][TOKEN_KEY] for secret in built}) == 3
    assert not any(SPEC_HASH in secret["metadata"]["annotations"] for secret in built)
    assert SPEC_HASH in build_service(POOL_OWNER, Role.BROKER)["metadata"]["annotations"]


def test_the_operators_word_on_pulling_holds_for_its_own_images_alone() -> None:
    images = Images("1", pull_policy="Always", pull_secrets=("registry",))
    broker = environment.build_broker(POOL_OWNER, pool(), images)
    assert main_of(broker)["imagePullPolicy"] == "Always"
    assert broker["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    theirs = {"image": "mine:1", "protocol": "Gymnasium", "entrypoint": "FrozenLake-v1"}
    own = environment.build_members(POOL_OWNER, pool(environment=theirs), images)["default"]
    assert "imagePullPolicy" not in main_of(own)
    assert "imagePullSecrets" not in own["spec"], "its account's own would not be used"
    laid = {"spec": {"containers": [{"name": "main", "image": "mine:latest"}]}}
    assert "imagePullPolicy" not in main_of(
        environment.build_members(POOL_OWNER, pool(template=laid), images)["default"]
    )
    chosen = {"spec": {"containers": [{"name": "main", "imagePullPolicy": "Never"}]}}
    kept = environment.build_members(POOL_OWNER, pool(template=chosen), images)["default"]
    assert main_of(kept)["imagePullPolicy"] == "Never"
    template = {"spec": {"imagePullSecrets": [{"name": "theirs"}]}}
    both = environment.build_members(POOL_OWNER, pool(template=template), images)["default"]
    assert {each["name"] for each in both["spec"]["imagePullSecrets"]} == {"registry", "theirs"}
