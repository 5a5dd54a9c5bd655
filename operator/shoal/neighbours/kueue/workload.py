"""A job as Kueue sees it: its Workload, and its templates with what an admission adds to them.

A queue admits what the job may use at most: an owned pool or worker group counts with its `max`, so that nothing that
scales later runs outside of the quota. The set with the widest range also names its `min` (Kueue allows one such set):
a queue that has not enough for all may admit fewer of these, and the job is then held to the number admitted.
Shared pools and fleets are not counted: they belong to others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal.api.labels import SETS_HASH
from shoal.api.v1alpha1.common import PodTemplate, TemplateMetadata
from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec
from shoal.api.v1alpha1.jobqueue import AdmissionStatus, PodSetAdmission
from shoal.api.v1alpha1.jobtrainer import Ray
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.api.v1alpha1.rolloutfleet import RolloutFleetSpec, WorkerGroup
from shoal.builders.children import build_resource
from shoal.builders.environment import build_broker, build_members, pool_owner
from shoal.builders.fleet import build_engines, build_gateway, fleet_owner
from shoal.builders.hashing import spec_hash
from shoal.builders.images import Images
from shoal.builders.job import build_agent, build_data, build_trainer, fleet_name, pool_name
from shoal.builders.merge import strategic_merge
from shoal.builders.owner import Owner
from shoal.neighbours.kuberay.cluster import HEAD, build_ray_cluster, groups, placed_cluster
from shoal.planner.sizing import engines_per_group

Manifest = dict[str, Any]

MOST_POD_SETS = 18
"""What a Workload's schema allows."""

JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"

_PLACED_BY = (
    "nodeSelector",
    "affinity",
    "tolerations",
    "priorityClassName",
    "runtimeClassName",
    "schedulerName",
    "overhead",
    "resources",
)
"""What decides about quota and flavor. The rest of a pod may change without the job losing its place."""


@dataclass(frozen=True)
class PodSet:
    """Like pods of the job. `least` is how few the job can work with."""

    name: str
    count: int
    pod: Manifest
    least: int

    @property
    def spread(self) -> int:
        """By how much the set may shrink."""
        return self.count - self.least


class TooManyPodSetsError(ValueError):
    """The job has more kinds of pods than a Workload can name."""


def workload_name(owner: Owner) -> str:
    """The Workload of a job; a later job of the same name has another one."""
    return f"rljob-{owner.name}-{owner.uid[:5]}"


@dataclass(frozen=True)
class Priority:
    """A priority class that exists: its kind, its name, its value."""

    kind: str
    name: str
    value: int


def build_workload(
    owner: Owner,
    api_version: str,
    queue: str,
    pod_sets: list[PodSet],
    *,
    priority: Priority | None = None,
    active: bool = True,
) -> Manifest:
    """The Workload.

    Args:
        owner: the job.
        api_version: the version that the server speaks.
        queue: the LocalQueue.
        pod_sets: from `pod_sets_of`.
        priority: the class that orders the queue, if the job names one.
        active: False takes the Workload out of its queue. True is left out, so that what an administrator sets stays.

    Raises:
        TooManyPodSetsError: when there are more sets than Kueue allows.
    """
    if len(pod_sets) > MOST_POD_SETS:
        raise TooManyPodSetsError(
            f"the job has {len(pod_sets)} kinds of pods, Kueue admits {MOST_POD_SETS} at most:"
            " own fewer pools or worker groups, or share them by ref"
        )
    elastic = max((each for each in pod_sets if each.spread), key=lambda each: each.spread, default=None)
    fixed = {"queueName": queue, "podSets": [_entry(each, each is elastic) for each in pod_sets]}
    spec = {**fixed, **_priority(priority, api_version), **({} if active else {"active": False})}
    manifest = build_resource(owner, api_version, "Workload", workload_name(owner), spec)
    manifest["metadata"]["annotations"][SETS_HASH] = spec_hash(fixed)
    manifest["metadata"]["labels"][JOB_UID_LABEL] = owner.uid
    return manifest


def _entry(pods: PodSet, elastic: bool) -> Manifest:
    entry = {"name": pods.name, "count": pods.count, "template": _template(pods.pod)}
    return {**entry, "minCount": max(1, pods.least)} if elastic else entry


def _template(pod: Manifest) -> Manifest:
    spec = pod["spec"]
    kept: Manifest = {key: spec[key] for key in _PLACED_BY if key in spec}
    for key in ("containers", "initContainers"):
        if spec.get(key):
            kept[key] = [_container(each) for each in spec[key]]
    return {"spec": kept}


def _container(container: Manifest) -> Manifest:
    return {key: container[key] for key in ("name", "resources", "restartPolicy") if key in container}


def _priority(priority: Priority | None, api_version: str) -> Manifest:
    if priority is None:
        return {}
    group = "scheduling.k8s.io" if priority.kind == "PriorityClass" else "kueue.x-k8s.io"
    if api_version.endswith("/v1beta1"):
        source = f"{group}/{priority.kind.lower()}"
        return {"priorityClassName": priority.name, "priorityClassSource": source, "priority": priority.value}
    reference = {"group": group, "kind": priority.kind, "name": priority.name}
    return {"priorityClassRef": reference, "priority": priority.value}


# --- the job's pods


def pod_sets_of(owner: Owner, spec: RLJobSpec, images: Images) -> list[PodSet]:
    """All pods that the job may have at once, by kind; kinds of which it may have none are left out."""
    agents = spec.agents.replicas
    sets = [
        PodSet("data", 1, build_data(owner, spec, images), 1),
        PodSet("trainer", 1, build_trainer(owner, spec, images), 1),
        PodSet("agents", agents, build_agent(owner, spec, images), agents),
    ]
    for cluster in build_ray_cluster(owner, spec, images, resting=False):
        sets += _ray(cluster["spec"])
    services: list[Manifest] = []
    if spec.fleet.template is not None:
        template = spec.fleet.template.spec.to_json()
        fleet = RolloutFleetSpec.model_validate({"model": spec.model.to_json(), **_helpers(spec), **template})
        name = fleet_owner(fleet_name(owner.name, spec), owner.namespace, "")
        services.append(build_gateway(name, fleet, images))
        sets += _engines(name, fleet, images)
    for source in spec.environments:
        if source.template is not None:
            pool = source.template.spec
            if pool.helpers is None:
                pool = pool.model_copy(update={"helpers": spec.helpers})
            name = pool_owner(pool_name(owner.name, source), owner.namespace, "")
            services.append(build_broker(name, pool, images))
            sets.append(_members(f"members-{source.name}", name, pool, images))
    return [each for each in (*sets, *_services(services)) if each.count]


def _helpers(spec: RLJobSpec) -> Manifest:
    """What an owned fleet takes from the job, unless it has its own."""
    return {} if spec.helpers is None else {"helpers": spec.helpers.to_json()}


def _services(pods: list[Manifest]) -> list[PodSet]:
    """Gateways and brokers, in one set where no `helpers` tells them apart."""
    alike: dict[str, list[Manifest]] = {}
    for pod in pods:
        alike.setdefault(spec_hash(_template(pod)), []).append(pod)
    return [
        PodSet("services" if number == 1 else f"services-{number}", len(group), group[0], len(group))
        for number, group in enumerate(alike.values(), start=1)
    ]


def _engines(owner: Owner, fleet: RolloutFleetSpec, images: Images) -> list[PodSet]:
    pods = build_engines(owner, fleet, images)
    groups = fleet.worker_groups
    most = [group.replicas.max for group in groups]
    least = [group.replicas.min for group in groups]
    if fleet.replicas is not None:
        most = least = engines_per_group(groups, fleet.replicas)
    return [
        PodSet(f"engines-{group.name}", high * group.nodes, pods[group.name], low * group.nodes)
        for group, high, low in zip(groups, most, least, strict=True)
    ]


def _ray(cluster: Manifest) -> list[PodSet]:
    """A group that Ray may scale counts with what it may grow to."""
    sets = []
    for name, group in groups(cluster):
        size = group.get("maxReplicas" if cluster.get("enableInTreeAutoscaling") else "replicas", 0)
        count = 1 if name == HEAD else int(size) * int(group.get("numOfHosts", 1))
        sets.append(PodSet(name, count, group["template"], count))
    return sets


def _members(name: str, owner: Owner, pool: EnvironmentPoolSpec, images: Images) -> PodSet:
    # All variants share the pool's template: to a queue they are alike.
    pod = next(iter(build_members(owner, pool, images).values()))
    most = pool.scale.max if pool.replicas is None else pool.replicas
    least = pool.scale.min if pool.replicas is None else pool.replicas
    return PodSet(name, most, pod, least)


# --- what an admission adds


def placed(spec: RLJobSpec, admission: AdmissionStatus | None) -> RLJobSpec:
    """The job with the admission's node selectors, tolerations, labels and counts in its templates."""
    if admission is None:
        return spec
    given = {each.name: each for each in admission.pod_sets}
    agents = spec.agents.model_copy(update={"template": _laid(spec.agents.template, given.get("agents"))})
    data = spec.data.model_copy(update={"template": _laid(spec.data.template, given.get("data"))})
    trainer = spec.trainer.model_copy(
        update={
            "template": _laid(spec.trainer.template, given.get("trainer")),
            "ray": _placed_ray(spec.trainer.ray, given),
        }
    )
    update: dict[str, Any] = {"agents": agents, "data": data, "trainer": trainer}
    if spec.fleet.template is not None:
        inner = spec.fleet.template.spec
        groups = [_placed_group(group, given.get(f"engines-{group.name}"), inner) for group in inner.worker_groups]
        fleet = spec.fleet.template.model_copy(update={"spec": inner.model_copy(update={"worker_groups": groups})})
        update["fleet"] = spec.fleet.model_copy(update={"template": fleet})
    update["environments"] = [
        source
        if source.template is None
        else source.model_copy(
            update={
                "template": source.template.model_copy(
                    update={"spec": _placed_pool(source.template.spec, given.get(f"members-{source.name}"))}
                )
            }
        )
        for source in spec.environments
    ]
    return spec.model_copy(update=update)


def _placed_ray(ray: Ray, given: Mapping[str, PodSetAdmission]) -> Ray:
    if ray.cluster is None:
        return ray
    template = ray.cluster.template
    laid = template.model_copy(update={"spec": placed_cluster(template.spec, given)})
    return ray.model_copy(update={"cluster": ray.cluster.model_copy(update={"template": laid})})


def _placed_group(group: WorkerGroup, given: PodSetAdmission | None, fleet: RolloutFleetSpec) -> WorkerGroup:
    if given is None:
        return group
    update: dict[str, Any] = {"template": _laid(group.template, given)}
    engines = given.count // group.nodes
    if fleet.replicas is None and engines < group.replicas.max:
        low = min(group.replicas.min, engines)
        update["replicas"] = group.replicas.model_copy(update={"min": low, "max": engines})
    return group.model_copy(update=update)


def _placed_pool(pool: EnvironmentPoolSpec, given: PodSetAdmission | None) -> EnvironmentPoolSpec:
    if given is None:
        return pool
    update: dict[str, Any] = {"template": _laid(pool.template, given)}
    # A pinned pool too: `max` bounds what it may have beside while members are replaced.
    if given.count < pool.scale.max:
        low = min(pool.scale.min, given.count)
        update["scale"] = pool.scale.model_copy(update={"min": low, "max": given.count})
    return pool.model_copy(update=update)


def _laid(template: PodTemplate, given: PodSetAdmission | None) -> PodTemplate:
    if given is None:
        return template
    spec: Manifest = {}
    if given.node_selector:
        spec["nodeSelector"] = given.node_selector
    if given.tolerations:
        spec["tolerations"] = given.tolerations
    metadata = TemplateMetadata(
        labels={**template.metadata.labels, **given.labels},
        annotations={**template.metadata.annotations, **given.annotations},
    )
    return PodTemplate(metadata=metadata, spec=strategic_merge(template.spec, spec))


def assigned(
    workload: str,
    admission: Manifest,
    checks: list[Manifest],
    counts: Mapping[str, int],
    flavors: Mapping[str, Manifest],
) -> AdmissionStatus:
    """What an admission gives each set of pods.

    Args:
        workload: name of the Workload.
        admission: its `status.admission`.
        checks: its `status.admissionChecks`, whose updates are added.
        counts: the sets' own counts, for an assignment without one.
        flavors: spec of every ResourceFlavor that is assigned.
    """
    updates = [update for check in checks for update in check.get("podSetUpdates") or ()]
    sets = []
    for each in admission.get("podSetAssignments") or ():
        name = each["name"]
        given = PodSetAdmission(name=name, count=each.get("count", counts.get(name, 0)))
        for flavor in dict.fromkeys((each.get("flavors") or {}).values()):
            _add(given, flavors[flavor].get("nodeLabels"), flavors[flavor].get("tolerations"))
        for update in updates:
            if update["name"] == name:
                _add(given, update.get("nodeSelector"), update.get("tolerations"))
                given.labels.update(update.get("labels") or {})
                given.annotations.update(update.get("annotations") or {})
        sets.append(given)
    return AdmissionStatus(
        workload=workload,
        cluster_queue=admission.get("clusterQueue", ""),
        fingerprint=fingerprint(admission, checks),
        pod_sets=sets,
    )


def _add(given: PodSetAdmission, selector: dict[str, str] | None, tolerations: list[Manifest] | None) -> None:
    given.node_selector.update(selector or {})
    given.tolerations += [each for each in tolerations or () if each not in given.tolerations]


def fingerprint(admission: Manifest, checks: list[Manifest]) -> str:
    """Tells one admission from another; a flavor that is edited later does not change it."""
    updates = [[check.get("name", ""), check.get("podSetUpdates") or []] for check in checks]
    return spec_hash([admission, [each for each in updates if each[1]]])
