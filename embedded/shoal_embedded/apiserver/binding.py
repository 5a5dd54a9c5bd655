"""The binding subresource of pods: what a scheduler posts."""

from typing import Any

from shoal_embedded.apiserver.errors import bad_request, conflict
from shoal_embedded.apiserver.objects import Objects, timestamp
from shoal_embedded.apiserver.resources import Resource

Json = dict[str, Any]


def bind(objects: Objects, pods: Resource, namespace: str, name: str, binding: Json) -> Json:
    """Put the pod on the node that the binding names. Raises 404, 409 for another pod or one that is bound."""
    node = (binding.get("target") or {}).get("name")
    if not node:
        raise bad_request("target.name: Required value")
    pod = objects.get(pods, namespace, name)
    uid = (binding.get("metadata") or {}).get("uid")
    if uid and uid != pod["metadata"]["uid"]:
        raise conflict(
            "pods/binding", "", name, f"the UID in the precondition ({uid}) does not match the UID in record"
        )
    if "deletionTimestamp" in pod["metadata"]:
        raise conflict("pods/binding", "", name, f"pod {name} is being deleted, cannot be assigned to a host")
    if pod["spec"].get("nodeName"):
        bound = pod["spec"]["nodeName"]
        raise conflict("pods/binding", "", name, f'pod {name} is already assigned to node "{bound}"')
    bound_to = {"nodeName": node}
    # As a subresource: to be bound is no change of what the pod shall be.
    objects.update(
        pods,
        namespace,
        name,
        lambda before: {**before, "spec": {**before["spec"], **bound_to}},
        subresource="binding",
    )
    scheduled = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": timestamp()}

    def with_condition(before: Json) -> Json:
        status = before.get("status", {})
        others = [each for each in status.get("conditions", []) if each["type"] != "PodScheduled"]
        return {**before, "status": {**status, "conditions": [*others, scheduled]}}

    objects.update(pods, namespace, name, with_condition, subresource="status")
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
