"""An engine over several nodes: a LeaderWorkerSet of one group, whose leader is the engine and whose workers join it.

One set for each engine, not one for all: a set lets go of its highest group first, and Shoal must choose which engine
to drain and delete.
"""

from copy import deepcopy
from typing import Any

from shoal.api.labels import MAIN, OWNER_UID, ROLE, SPEC_HASH, Role
from shoal.builders.hashing import spec_hash
from shoal.builders.owner import Owner
from shoal.builders.pods import TOKENS_VOLUME, shoal_labels

Manifest = dict[str, Any]

GROUP = "leaderworkerset.x-k8s.io"
API_VERSION = f"{GROUP}/v1"
LEADER_WORKER_SET = "LeaderWorkerSet"
FLEET_CHARACTERS = 36
"""How much of the fleet's name is in a set's: a StatefulSet of more than 52 characters cannot make pods, since their
`controller-revision-hash` label then exceeds 63, and the workers' StatefulSet has the set's name and `-0`."""
WORKER_GRACE_SECONDS = 5
"""A worker holds nothing of its own, and its GPUs are wanted."""


def group_of(owner: Owner, pod: Manifest, nodes: int) -> Manifest:
    """The set whose one leader is the engine that was built.

    Args:
        owner: the fleet; it controls the set, and the set's StatefulSets control the pods.
        pod: the built engine.
        nodes: pods of the group, the leader among them.
    """
    metadata = pod["metadata"]
    spec = {
        "replicas": 1,
        # The engine is ready only once all workers have joined, so they must not wait for its readiness.
        "startupPolicy": "LeaderCreated",
        "leaderWorkerTemplate": _templates(owner, pod, nodes),
    }
    return {
        "apiVersion": API_VERSION,
        "kind": LEADER_WORKER_SET,
        "metadata": {
            "generateName": f"{owner.name[:FLEET_CHARACTERS]}-{Role.ENGINE}-",
            "namespace": metadata["namespace"],
            "labels": shoal_labels(metadata["labels"]),
            "annotations": {SPEC_HASH: spec_hash(spec)},
            "ownerReferences": metadata["ownerReferences"],
        },
        "spec": spec,
    }


def _templates(owner: Owner, pod: Manifest, nodes: int) -> Manifest:
    metadata = pod["metadata"]
    annotations = {key: value for key, value in metadata["annotations"].items() if key != SPEC_HASH}
    labels = {**metadata["labels"], OWNER_UID: owner.uid}
    return {
        "size": nodes,
        # With a group made anew at every restart, a program that cannot start would take its message along, and
        # nothing would slow it down; restarted in place, every part finds the others again.
        "restartPolicy": "None",
        "leaderTemplate": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod["spec"]},
        "workerTemplate": {
            "metadata": {"labels": {**labels, ROLE: Role.ENGINE_WORKER}, "annotations": annotations},
            "spec": _worker(pod["spec"]),
        },
    }


def _worker(spec: Manifest) -> Manifest:
    """The same surroundings (image, GPUs, volumes, the user's template), with nothing to serve and no secret."""
    worker = deepcopy(spec)
    worker["terminationGracePeriodSeconds"] = WORKER_GRACE_SECONDS
    main = next(container for container in worker["containers"] if container["name"] == MAIN)
    for field in ("ports", "startupProbe", "readinessProbe", "livenessProbe", "args"):
        main.pop(field, None)
    main["command"] = ["python", "-m", "shoal_workers.engines.joining"]
    main["env"] = [variable for variable in main["env"] if not variable["name"].startswith("SHOAL_")]
    main["volumeMounts"] = [mount for mount in main["volumeMounts"] if mount["name"] != TOKENS_VOLUME]
    worker["volumes"] = [volume for volume in worker["volumes"] if volume["name"] != TOKENS_VOLUME]
    return worker
