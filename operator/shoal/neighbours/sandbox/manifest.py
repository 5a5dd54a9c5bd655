"""A member as a Sandbox of kubernetes-sigs/agent-sandbox: its controller makes the pod, under the same name."""

from typing import Any

from shoal.api.labels import OWNER_UID, SPEC_HASH
from shoal.builders.hashing import spec_hash
from shoal.builders.owner import Owner
from shoal.builders.pods import shoal_labels

Manifest = dict[str, Any]

GROUP = "agents.x-k8s.io"
API_VERSION = f"{GROUP}/v1beta1"
SANDBOX = "Sandbox"


def sandbox_of(owner: Owner, pod: Manifest) -> Manifest:
    """The Sandbox whose pod is the one that was built.

    Args:
        owner: the pool; it controls the Sandbox, and the Sandbox controls the pod.
        pod: the built member. Its labels go to the pod and to the Sandbox, less the user's own, which are about pods.
    """
    metadata = pod["metadata"]
    template = {
        # The pod's owner is the Sandbox: only this label leads from the pod to the pool, for events and selectors.
        "metadata": {
            "labels": {**metadata["labels"], OWNER_UID: owner.uid},
            "annotations": {key: value for key, value in metadata["annotations"].items() if key != SPEC_HASH},
        },
        "spec": pod["spec"],
    }
    # A member is found by the address it registers, and a headless Service each would be one more object per member.
    spec = {"podTemplate": template, "service": False, "shutdownPolicy": "Delete"}
    return {
        "apiVersion": API_VERSION,
        "kind": SANDBOX,
        "metadata": {
            "generateName": metadata["generateName"],
            "namespace": metadata["namespace"],
            "labels": shoal_labels(metadata["labels"]),
            "annotations": {SPEC_HASH: spec_hash(spec)},
            "ownerReferences": metadata["ownerReferences"],
        },
        "spec": spec,
    }
