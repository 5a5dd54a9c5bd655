"""What this control plane does not have, in a sentence for the one who asks for it."""

from shoal_embedded.apiserver.errors import StatusError

_WHERE = "use a cluster, or `shoal up --control-plane kube-apiserver`"
_SUBRESOURCES = {
    ("pods", "portforward"): "a pod has a loopback address of its own here: ask its podIP and port directly, "
    "`kubectl get pod NAME -o wide` shows the address",
    ("pods", "attach"): "a container's output goes to its log alone, and nothing reads its input: `kubectl logs -f`",
    ("pods", "proxy"): "a pod has a loopback address of its own here: ask its podIP and port directly",
    ("services", "proxy"): "a Service has a loopback address of its own here: ask its clusterIP and port directly",
    ("pods", "ephemeralcontainers"): "pods are processes of this machine: look at them with its own tools",
    ("pods", "eviction"): "there is one node, which is not drained: delete the pod",
    ("serviceaccounts", "token"): "there is one user, whose token is in the kubeconfig",
}
_GROUPS = {
    "autoscaling": f"no controller scales by metrics here: {_WHERE}",
    "metrics.k8s.io": "there are no metrics by this API: the node has figures at /stats/summary",
    "apps": f"no controller makes pods of Deployments and their like here: {_WHERE}",
    "batch": f"no controller makes pods of Jobs here: {_WHERE}",
    "admissionregistration.k8s.io": f"admission webhooks and policies are not called here: {_WHERE}",
    "certificates.k8s.io": f"no certificates are issued here: {_WHERE}",
    "authentication.k8s.io": "there is one user, whose token is in the kubeconfig",
}


def subresource(plural: str, name: str) -> StatusError | None:
    """The refusal of a subresource that is known and not here."""
    why = _SUBRESOURCES.get((plural, name))
    return _refusal(f"{plural}/{name}", why) if why else None


def group(name: str) -> StatusError | None:
    """The refusal of an API group that is known and not here."""
    why = _GROUPS.get(name)
    return _refusal(name, why) if why else None


def _refusal(what: str, why: str) -> StatusError:
    return StatusError(404, "NotFound", f"the embedded control plane has no {what}: {why}")
