"""The fixture itself: a real API server answers, and a pod can be created at once."""

from __future__ import annotations

from tests.kubernetes import Kubernetes

POD = """
apiVersion: v1
kind: Pod
metadata: {name: one}
spec: {containers: [{name: main, image: none}]}
"""


def test_a_pod_is_created_in_a_namespace_of_its_own(kubernetes: Kubernetes) -> None:
    kubernetes.kubectl("apply", "-f", "-", stdin=POD)
    assert kubernetes.kubectl("get", "pods", "-o", "name") == "pod/one\n"


def test_namespaces_are_not_shared(kubernetes: Kubernetes) -> None:
    assert kubernetes.kubectl("get", "pods", "-o", "name") == ""
