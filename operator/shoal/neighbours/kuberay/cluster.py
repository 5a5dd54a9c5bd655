"""The RayCluster that a job owns: the user's RayClusterSpec, with what the learner needs in its pods."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from shoal.api.labels import MAIN, MANAGED_BY, MANAGER, Role
from shoal.api.v1alpha1.common import PodTemplate
from shoal.api.v1alpha1.jobqueue import PodSetAdmission
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.builders.children import build_resource
from shoal.builders.defaults import RESTRICTED_CONTAINER
from shoal.builders.images import Images
from shoal.builders.merge import strategic_merge
from shoal.builders.owner import Owner
from shoal.builders.security import USER
from shoal.builders.storage import model_volume, shared_volume

Manifest = dict[str, Any]

GROUP = "ray.io"
API_VERSION = f"{GROUP}/v1"
KIND = "RayCluster"

HEAD = "ray-head"

_RAY_SECURITY: Manifest = {
    **RESTRICTED_CONTAINER,
    "runAsNonRoot": True,
    "runAsUser": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def cluster_name(job: str, spec: RLJobSpec) -> str:
    """The RayCluster that the job trains on: the one it names, or the one it owns; "" for none."""
    ray = spec.trainer.ray
    if ray.cluster_ref is not None:
        return ray.cluster_ref.name
    return f"{job}-ray" if ray.cluster is not None else ""


def build_ray_cluster(owner: Owner, spec: RLJobSpec, images: Images, *, resting: bool) -> list[Manifest]:
    """The owned RayCluster, suspended while the job rests; nothing where the job owns none."""
    if spec.trainer.ray.cluster is None:
        return []
    template = spec.trainer.ray.cluster.template
    cluster = deepcopy(template.spec)
    for _, group in groups(cluster):
        pod = group.get("template") or {}
        labels = {**((pod.get("metadata") or {}).get("labels") or {}), MANAGED_BY: MANAGER, owner.label: owner.name}
        metadata = {**(pod.get("metadata") or {}), "labels": labels}
        group["template"] = {**pod, "metadata": metadata, "spec": _pod(pod.get("spec") or {}, spec, images)}
    cluster["suspend"] = resting or bool(cluster.get("suspend"))
    manifest = build_resource(owner, API_VERSION, KIND, cluster_name(owner.name, spec), cluster)
    metadata = manifest["metadata"]
    metadata["labels"] = {**template.metadata.labels, **metadata["labels"]}
    metadata["annotations"] = {**template.metadata.annotations, **metadata["annotations"]}
    for _, group in groups(manifest["spec"]):
        _restrict(group["template"]["spec"], images)
    return [manifest]


def _restrict(pod: Manifest, images: Images) -> None:
    """Have a Ray container of Shoal's own image satisfy `restricted`; another image may need its own user.

    After the cluster's hash is taken: KubeRay may answer a changed template by making the whole cluster anew.
    """
    ray = pod["containers"][0]
    if ray["image"] == images.of(Role.TRAINER):
        ray["securityContext"] = {**_RAY_SECURITY, **(ray.get("securityContext") or {})}


def groups(cluster: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Name and group, of the head and of every worker group; the groups are the spec's own, to be changed in place."""
    head = cluster.get("headGroupSpec")
    if isinstance(head, dict):
        yield HEAD, head
    for group in cluster.get("workerGroupSpecs") or ():
        if isinstance(group, dict):
            yield f"ray-{group.get('groupName', '')}", group


def _pod(pod: Manifest, spec: RLJobSpec, images: Images) -> Manifest:
    """The user's pod with the job's volumes and the trainer's image; the Ray container is the first, as in KubeRay."""
    shared, shared_mounts = shared_volume(spec.storage)
    _, models, model_mounts = model_volume(spec.model)
    containers = pod.get("containers") or [{}]
    base = {"name": "ray", "image": images.of(Role.TRAINER), "volumeMounts": [*shared_mounts, *model_mounts]}
    ray = strategic_merge(base, containers[0])
    built: Manifest = strategic_merge({"volumes": [*shared, *models]}, {**pod, "containers": [ray, *containers[1:]]})
    return images.pulled(built)


def with_token(template: PodTemplate, secret: str) -> PodTemplate:
    """The trainer's template with the variables by which Ray shows a token, as KubeRay gives them to its own pods."""
    if not secret:
        return template
    token = {"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": {"name": secret, "key": "auth_token"}}}
    environment = [{"name": "RAY_AUTH_MODE", "value": "token"}, token]
    spec = strategic_merge(template.spec, {"containers": [{"name": MAIN, "env": environment}]})
    return template.model_copy(update={"spec": spec})


def placed_cluster(cluster: Manifest, given: Mapping[str, PodSetAdmission]) -> Manifest:
    """The cluster with an admission's node selectors, tolerations, labels and counts in its groups."""
    laid = deepcopy(cluster)
    for name, group in groups(laid):
        admitted = given.get(name)
        if admitted is None:
            continue
        pod = group.get("template") or {}
        placement = {"nodeSelector": admitted.node_selector, "tolerations": admitted.tolerations}
        metadata = {"labels": admitted.labels, "annotations": admitted.annotations}
        group["template"] = strategic_merge(pod, {"metadata": metadata, "spec": placement})
    return laid
