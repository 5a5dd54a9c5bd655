"""A job's pods as Kueue counts them, and what an admission adds to the job's templates."""

from typing import Any

import pytest

from shoal.api.labels import SETS_HASH, SPEC_HASH
from shoal.api.v1alpha1.jobqueue import AdmissionStatus, PodSetAdmission
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.builders.images import Images
from shoal.builders.job import build_agent, build_owned, build_trainer, job_owner
from shoal.neighbours.kueue.workload import (
    PodSet,
    Priority,
    TooManyPodSetsError,
    assigned,
    build_workload,
    fingerprint,
    placed,
    pod_sets_of,
)
from tests.api.samples import changed

Json = dict[str, Any]

OWNER = job_owner("sample", "n", "12345678-aaaa")
V2 = "kueue.x-k8s.io/v1beta2"
POOL: Json = {"environment": {"protocol": "Gymnasium", "entrypoint": "FrozenLake-v1"}}


def spec(**changes: Any) -> RLJobSpec:
    body = changed("RLJob", "spec.agents", {"replicas": 3})["spec"]
    return RLJobSpec.model_validate({**body, **changes})


def owning(pools: int = 1, groups: int = 1, **pool: Any) -> RLJobSpec:
    names = [{"name": f"g{index}", "replicas": {"min": 1, "max": 2}} for index in range(groups)]
    environments = [
        {"name": f"e{index}", "template": {"spec": {**POOL, "scale": {"min": 2, "max": 9}, **pool}}}
        for index in range(pools)
    ]
    return spec(fleet={"template": {"spec": {"workerGroups": names}}}, environments=environments)


def sets_of(job: RLJobSpec) -> dict[str, PodSet]:
    return {each.name: each for each in pod_sets_of(OWNER, job, Images())}


def counts(job: RLJobSpec) -> dict[str, int]:
    return {name: each.count for name, each in sets_of(job).items()}


def test_every_pod_that_the_job_may_have_is_counted_once() -> None:
    assert counts(spec()) == {"data": 1, "trainer": 1, "agents": 3}
    expected = {"data": 1, "trainer": 1, "agents": 3, "engines-g0": 2, "engines-g1": 2, "members-e0": 9, "services": 2}
    assert counts(owning(groups=2)) == expected
    assert counts(owning(replicas=4))["members-e0"] == 4
    assert "members-e0" not in counts(owning(replicas=0)), "no pod, no set"


def test_one_set_may_shrink_the_one_with_the_widest_range() -> None:
    workload = build_workload(OWNER, V2, "team", pod_sets_of(OWNER, owning(pools=2, groups=2), Images()))
    least = {each["name"]: each["minCount"] for each in workload["spec"]["podSets"] if "minCount" in each}
    assert least == {"members-e0": 2}
    fixed = build_workload(OWNER, V2, "team", pod_sets_of(OWNER, spec(), Images()))
    assert not any("minCount" in each for each in fixed["spec"]["podSets"])


def test_more_kinds_of_pods_than_kueue_names_are_refused_with_the_way_out() -> None:
    most = pod_sets_of(OWNER, owning(pools=10, groups=4), Images())
    assert len(build_workload(OWNER, V2, "team", most)["spec"]["podSets"]) == 18
    with pytest.raises(TooManyPodSetsError, match=r"19 kinds of pods, Kueue admits 18 at most: own fewer pools"):
        build_workload(OWNER, V2, "team", pod_sets_of(OWNER, owning(pools=10, groups=5), Images()))


def hashes(job: RLJobSpec, **more: Any) -> tuple[str, str]:
    workload = build_workload(OWNER, V2, "team", pod_sets_of(OWNER, job, Images()), **more)
    annotations = workload["metadata"]["annotations"]
    return annotations[SPEC_HASH], annotations[SETS_HASH]


def test_only_what_decides_about_quota_costs_the_place() -> None:
    def agents(pod: Json) -> RLJobSpec:
        return spec(agents={"replicas": 3, "template": {"spec": pod}})

    image = agents({"containers": [{"name": "main", "image": "example/agent:2", "env": [{"name": "A", "value": "1"}]}]})
    assert hashes(image) == hashes(spec())
    larger = agents({"containers": [{"name": "main", "resources": {"requests": {"cpu": "2"}}}]})
    assert hashes(larger)[1] != hashes(spec())[1]
    elsewhere = agents({"nodeSelector": {"zone": "a"}})
    assert hashes(elsewhere)[1] != hashes(spec())[1]
    urgent = hashes(spec(), priority=Priority("WorkloadPriorityClass", "urgent", 7))
    assert urgent[1] == hashes(spec())[1]
    assert urgent[0] != hashes(spec())[0]
    assert hashes(spec(), active=False)[1] == hashes(spec())[1]


@pytest.mark.parametrize(
    ("version", "kind", "expected"),
    [
        (
            "v1beta2",
            "WorkloadPriorityClass",
            {"priorityClassRef": {"group": "kueue.x-k8s.io", "kind": "WorkloadPriorityClass", "name": "urgent"}},
        ),
        (
            "v1beta1",
            "WorkloadPriorityClass",
            {"priorityClassName": "urgent", "priorityClassSource": "kueue.x-k8s.io/workloadpriorityclass"},
        ),
        (
            "v1beta1",
            "PriorityClass",
            {"priorityClassName": "urgent", "priorityClassSource": "scheduling.k8s.io/priorityclass"},
        ),
    ],
)
def test_both_versions_of_kueue_are_spoken(version: str, kind: str, expected: Json) -> None:
    priority = Priority(kind, "urgent", 7)
    workload = build_workload(
        OWNER, f"kueue.x-k8s.io/{version}", "team", pod_sets_of(OWNER, spec(), Images()), priority=priority
    )
    assert workload["apiVersion"] == f"kueue.x-k8s.io/{version}"
    assert workload["spec"]["priority"] == 7
    assert expected.items() <= workload["spec"].items()


FLAVORS: dict[str, Json] = {
    "gpu": {"nodeLabels": {"kind": "gpu"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]},
    "spot": {"nodeLabels": {"capacity": "spot"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]},
}


def test_flavors_of_all_resources_and_the_checks_updates_are_added_up() -> None:
    assignment = {"name": "trainer", "flavors": {"example.com/gpu": "gpu", "cpu": "spot"}}
    updates = [{"name": "trainer", "nodeSelector": {"zone": "a"}, "annotations": {"request": "r"}}, {"name": "agents"}]
    admission = {"clusterQueue": "q", "podSetAssignments": [assignment, {"name": "agents", "count": 2}]}
    checks = [{"name": "provision", "podSetUpdates": updates}]
    given = assigned("w", admission, checks, {"trainer": 1, "agents": 3}, FLAVORS)
    trainer, agents = given.pod_sets
    assert trainer.node_selector == {"kind": "gpu", "capacity": "spot", "zone": "a"}
    assert trainer.tolerations == [{"key": "gpu", "operator": "Exists"}]
    assert (trainer.count, agents.count) == (1, 2)
    job = placed(spec(), given)
    pod = build_trainer(OWNER, job, Images())
    assert pod["spec"]["nodeSelector"] == trainer.node_selector
    assert pod["metadata"]["annotations"]["request"] == "r"
    assert "nodeSelector" not in build_agent(OWNER, job, Images())["spec"]


def test_a_flavor_that_changes_later_is_no_new_admission() -> None:
    admission = {"clusterQueue": "q", "podSetAssignments": [{"name": "trainer", "flavors": {"cpu": "spot"}}]}
    before = assigned("w", admission, [], {}, FLAVORS)
    after = assigned("w", admission, [], {}, {"spot": {"nodeLabels": {"capacity": "other"}}})
    assert before.fingerprint == after.fingerprint == fingerprint(admission, [])
    assert fingerprint({**admission, "clusterQueue": "p"}, []) != before.fingerprint


def test_what_the_user_asks_for_stays_beside_what_the_queue_gives() -> None:
    template = {"spec": {"nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "own", "operator": "Exists"}]}}
    job = owning(template=template)
    given = AdmissionStatus(
        workload="w",
        pod_sets=[
            PodSetAdmission(name="members-e0", count=5, node_selector={"kind": "cpu"}, tolerations=[{"key": "t"}])
        ],
    )
    (pool,) = [
        each["spec"] for each in build_owned(OWNER, placed(job, given), resting=False) if "environment" in each["spec"]
    ]
    assert pool["template"]["spec"]["nodeSelector"] == {"disk": "ssd", "kind": "cpu"}
    assert pool["template"]["spec"]["tolerations"] == [{"key": "own", "operator": "Exists"}, {"key": "t"}]
    assert (pool["scale"]["min"], pool["scale"]["max"]) == (2, 5)
    assert placed(job, None) is job
