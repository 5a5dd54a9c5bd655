"""What this control plane lacks, in a sentence to act on."""

from __future__ import annotations

import pytest

from tests.embedded.apiserver.conftest import Embedded


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", "no controller scales by metrics"),
        ("GET", "/apis/apps/v1/namespaces/default/deployments", "no controller makes pods of Deployments"),
        ("GET", "/apis/batch/v1/namespaces/default/jobs", "no controller makes pods of Jobs"),
        ("POST", "/api/v1/namespaces/default/serviceaccounts/default/token", "whose token is in the kubeconfig"),
        ("POST", "/api/v1/namespaces/default/pods/p/portforward", "ask its podIP and port directly"),
    ],
)
def test_says_why_and_what_to_do(embedded: Embedded, method: str, path: str, words: str) -> None:
    status, body = embedded.call(method, path, {} if method == "POST" else None)
    assert (status, body["reason"]) == (404, "NotFound")
    assert body["message"].startswith("the embedded control plane has no ")
    assert words in body["message"]


def test_the_one_user_may_do_everything(embedded: Embedded) -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    status, body = embedded.call("POST", path, {"spec": {"namespace": "default"}})
    assert (status, body["status"]["incomplete"]) == (201, False)
    assert body["status"]["resourceRules"] == [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]
