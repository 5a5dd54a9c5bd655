"""Helper pods: what the user says, what they take over, and that neither default restarts one."""

from typing import Any

import pytest

from shoal.api.labels import LAID_UNDER, SPEC_HASH, Role
from shoal.api.v1alpha1.common import PodTemplate
from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.api.v1alpha1.rolloutfleet import RolloutFleetSpec
from shoal.builders import environment, fleet, job
from shoal.builders.helpers import DEFAULT_RESOURCES, placed_helper
from shoal.builders.images import Images
from shoal.planner.actions import DeletePod
from shoal.planner.observed import Expected, view
from shoal.planner.singleton import plan_singleton
from tests.api.samples import FLEET, JOB, POOL

Json = dict[str, Any]
IMAGES = Images("1")
OWNER = environment.pool_owner("p", "ns", "u1")
TOLERATION = {"key": "dedicated", "operator": "Exists"}
FIGURES = {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}


def bare(role: str, **helpers: Any) -> Json:
    """The helper before anything is laid under it."""
    spec = {"helpers": helpers} if helpers else {}
    if role == Role.BROKER:
        return environment.build_broker(OWNER, EnvironmentPoolSpec.model_validate(POOL["spec"] | spec), IMAGES)
    if role == Role.GATEWAY:
        owner = fleet.fleet_owner("f", "ns", "u2")
        return fleet.build_gateway(owner, RolloutFleetSpec.model_validate(FLEET["spec"] | spec), IMAGES)
    owner = job.job_owner("j", "ns", "0123456789")
    return job.build_data(owner, RLJobSpec.model_validate(JOB["spec"] | spec), IMAGES)


def main_of(pod: Json) -> Json:
    return dict(pod["spec"]["containers"][0])


def digest(pod: Json) -> str:
    return str(pod["metadata"]["annotations"][SPEC_HASH])


ROLES = pytest.mark.parametrize("role", [Role.BROKER, Role.GATEWAY, Role.DATA])


@ROLES
def test_a_helper_has_figures_and_the_tolerations_of_its_pods_and_the_hash_that_it_had(role: str) -> None:
    served = [
        PodTemplate(spec={"tolerations": [TOLERATION], "priorityClassName": "high", "nodeSelector": {"gpu": "a"}})
    ]
    pod = placed_helper(bare(role), role, [*served, *served])
    assert main_of(pod)["resources"] == DEFAULT_RESOURCES[role]
    assert set(DEFAULT_RESOURCES[role]) == {"requests", "limits"}
    assert pod["spec"]["tolerations"] == [TOLERATION]
    assert pod["spec"]["priorityClassName"] == "high"
    assert "nodeSelector" not in pod["spec"]
    assert digest(pod) == digest(bare(role)), "an upgrade restarts no helper"


@ROLES
def test_what_helpers_says_wins_and_is_another_template(role: str) -> None:
    own = {"tolerations": [{"operator": "Exists"}], "resources": FIGURES, "nodeSelector": {"a": "b"}}
    served = [PodTemplate(spec={"tolerations": [TOLERATION]})]
    pod = placed_helper(bare(role, **own), role, served)
    assert pod["spec"]["tolerations"] == own["tolerations"]
    assert pod["spec"]["nodeSelector"] == own["nodeSelector"]
    assert main_of(pod)["resources"] == FIGURES
    assert digest(pod) != digest(bare(role))


def test_the_data_managers_own_template_lies_over_helpers() -> None:
    body = JOB["spec"] | {"helpers": {"nodeSelector": {"a": "b", "c": "d"}, "resources": FIGURES}}
    body["data"] = {**body.get("data", {}), "template": {"spec": {"nodeSelector": {"a": "mine"}}}}
    pod = job.build_data(job.job_owner("j", "ns", "0123456789"), RLJobSpec.model_validate(body), IMAGES)
    assert pod["spec"]["nodeSelector"] == {"a": "mine", "c": "d"}
    assert main_of(pod)["resources"] == FIGURES


def test_owned_pools_and_fleets_take_the_jobs_helpers_unless_they_have_their_own() -> None:
    own = {**POOL["spec"], "helpers": {"nodeSelector": {"mine": "yes"}}}
    environments = [{"name": "a", "template": {"spec": POOL["spec"]}}, {"name": "b", "template": {"spec": own}}]
    body = {"helpers": {"nodeSelector": {"a": "b"}}, "fleet": {"template": {"spec": {}}}, "environments": environments}
    spec = RLJobSpec.model_validate(JOB["spec"] | body)
    owned = job.build_owned(job.job_owner("j", "ns", "0123456789"), spec, resting=False)
    selectors = [each["spec"]["helpers"]["nodeSelector"] for each in owned]
    assert selectors == [{"a": "b"}, {"a": "b"}, {"mine": "yes"}]


@pytest.mark.parametrize("fits", [True, False])
def test_a_helper_that_no_node_takes_is_made_anew_with_a_placement_that_one_may(fits: bool) -> None:
    before = placed_helper(bare(Role.BROKER), Role.BROKER, [])
    after = placed_helper(bare(Role.BROKER), Role.BROKER, [PodTemplate(spec={"tolerations": [TOLERATION]})])
    assert before["metadata"]["annotations"][LAID_UNDER] != after["metadata"]["annotations"][LAID_UNDER]
    waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "taints"}
    metadata = {**before["metadata"], "uid": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}
    pod = view({"metadata": metadata, "spec": {}, "status": {"conditions": [] if fits else [waits]}})

    def actions(manifest: Json) -> list[Any]:
        return list(plan_singleton(Role.BROKER, [pod], manifest, Expected(), wanted=True, now=0.0))

    assert actions(before) == []
    assert [isinstance(each, DeletePod) for each in actions(after)] == ([] if fits else [True])
