"""Members and engines as objects of other operators: their pods are the built ones, and every name has room."""

from functools import partial
from typing import Any

from shoal.api.labels import FLEET, OWNER_UID, POOL, ROLE, SPEC_HASH, WORKER_GROUP, Role
from shoal.builders import environment, fleet
from shoal.builders.images import Images
from shoal.neighbours.kueue import workload as kueue
from tests.builders.test_pods import JOB_OWNER, POOL_OWNER, config_of, main_of, pool, rollout, training
from tests.neighbours.fakes import neighbourhood

IMAGES = Images("1.2.3")
NEIGHBOURS = neighbourhood()
LONGEST = fleet.fleet_owner("f" * 47, "ns", "u2")


def sandbox(**changes: Any) -> dict[str, Any]:
    spec = pool(backend="AgentSandbox", **changes)
    return environment.build_members(POOL_OWNER, spec, IMAGES, partial(NEIGHBOURS.member, POOL_OWNER, spec))["default"]


def group(nodes: int = 2, **changes: Any) -> dict[str, Any]:
    shape = {"name": "large", "nodes": nodes, "tensorParallel": 8, **changes}
    spec = rollout(workerGroups=[shape])
    return fleet.build_engines(LONGEST, spec, IMAGES, partial(NEIGHBOURS.engine, LONGEST))["large"]


def template(body: dict[str, Any], which: str) -> dict[str, Any]:
    return dict(body["spec"]["leaderWorkerTemplate"][which])


def test_a_sandboxs_pod_is_the_pod_that_the_pool_would_make() -> None:
    pod = environment.build_members(POOL_OWNER, pool(), IMAGES)["default"]
    inner = sandbox()["spec"]["podTemplate"]
    assert inner["spec"] == pod["spec"]
    assert inner["metadata"]["labels"] == pod["metadata"]["labels"] | {OWNER_UID: "u1"}


def test_a_sandbox_is_found_by_its_pool_and_replaced_with_its_template() -> None:
    body = sandbox()
    assert body["metadata"]["ownerReferences"] == [POOL_OWNER.reference()]
    assert (body["metadata"]["labels"][ROLE], body["metadata"]["labels"][POOL]) == (Role.ENVIRONMENT, "p")
    hashes = [each["metadata"]["annotations"][SPEC_HASH] for each in (body, sandbox(), sandbox(slotsPerMember=2))]
    assert hashes[0] == hashes[1] != hashes[2]
    pod = environment.build_members(POOL_OWNER, pool(), IMAGES)["default"]
    assert hashes[0] != pod["metadata"]["annotations"][SPEC_HASH], "another backend is another template"


def test_the_users_labels_are_the_pods_and_not_the_sandboxs() -> None:
    body = sandbox(template={"metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}}})
    assert "team" not in body["metadata"]["labels"]
    assert body["spec"]["podTemplate"]["metadata"]["labels"]["team"] == "a"
    assert body["spec"]["podTemplate"]["metadata"]["annotations"] == {"note": "b"}


def test_a_groups_leader_is_the_engine_and_its_workers_only_join() -> None:
    body = group(nodes=3)
    assert (body["spec"]["replicas"], body["spec"]["leaderWorkerTemplate"]["size"]) == (1, 3)
    leader, worker = template(body, "leaderTemplate"), template(body, "workerTemplate")
    assert (config_of(leader)["nodes"], config_of(leader)["tensor_parallel"]) == (3, 8)
    assert leader["metadata"]["labels"][ROLE] == Role.ENGINE
    assert worker["metadata"]["labels"][ROLE] == Role.ENGINE_WORKER, "it is no engine to count, select or route to"
    for each in (leader, worker, body):
        assert each["metadata"]["labels"][WORKER_GROUP] == "large"
        assert each["metadata"]["labels"][FLEET] == LONGEST.name
    main = main_of(worker)
    assert main["command"] == ["python", "-m", "shoal_workers.engines.joining"]
    assert not {"ports", "livenessProbe", "readinessProbe", "startupProbe"} & set(main)
    assert not [variable for variable in main["env"] if variable["name"].startswith("SHOAL")], "no secret, no task"


def test_workers_have_the_gpus_and_volumes_of_the_leader() -> None:
    gpus = {"limits": {"nvidia.com/gpu": 8}}
    user = {"containers": [{"name": "main", "resources": gpus, "args": ["x"]}], "nodeSelector": {"gpu": "h100"}}
    body = group(template={"spec": user})
    leader, worker = template(body, "leaderTemplate"), template(body, "workerTemplate")
    for each in (leader, worker):
        assert main_of(each)["resources"] == gpus
        assert each["spec"]["nodeSelector"] == {"gpu": "h100"}
    tokens = "shoal-tokens"  # these are the leader's: workers call no service
    assert main_of(worker)["volumeMounts"] == [m for m in main_of(leader)["volumeMounts"] if m["name"] != tokens]
    assert worker["spec"]["volumes"] == [each for each in leader["spec"]["volumes"] if each["name"] != tokens]
    assert {"name": "shm", "mountPath": "/dev/shm"} in main_of(leader)["volumeMounts"]
    assert "args" not in main_of(worker)


def test_a_shared_memory_of_the_users_own_is_left_alone() -> None:
    mine = {"name": "mine", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}
    mounts = [{"name": "mine", "mountPath": "/dev/shm"}]
    body = group(template={"spec": {"volumes": [mine], "containers": [{"name": "main", "volumeMounts": mounts}]}})
    for which in ("leaderTemplate", "workerTemplate"):
        found = [each for each in main_of(template(body, which))["volumeMounts"] if each["mountPath"] == "/dev/shm"]
        assert found == mounts


def test_no_name_is_too_long_for_the_statefulsets_of_a_group() -> None:
    workers = group()["metadata"]["generateName"] + "x" * 6 + "-0"
    assert len(workers) <= 52, "controller-revision-hash is this name, a dash and ten characters: 63 at most"


def test_one_node_is_a_plain_pod() -> None:
    assert group(nodes=1)["kind"] == "Pod"


def test_a_queue_counts_every_pod_of_an_engine_and_gives_whole_engines_back() -> None:
    shape = {"name": "large", "nodes": 4, "replicas": {"min": 1, "max": 3}}
    job = training(fleet={"template": {"spec": {"workerGroups": [shape]}}})
    (engines,) = [each for each in kueue.pod_sets_of(JOB_OWNER, job, IMAGES) if each.name == "engines-large"]
    assert (engines.count, engines.least) == (12, 4)
    admission = {"podSetAssignments": [{"name": "engines-large", "count": 11}]}
    given = kueue.placed(job, kueue.assigned("w", admission, [], {}, {}))
    assert given.fleet.template is not None
    replicas = given.fleet.template.spec.worker_groups[0].replicas
    assert (replicas.min, replicas.max) == (1, 2)
