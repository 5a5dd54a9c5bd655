"""What becomes of a RayCluster for the job that names it."""

from typing import Any

import pytest

from shoal.neighbours.kuberay.decisions import see_cluster, view_ray_cluster
from shoal.planner.rayview import NO_CLUSTER, RayView

Json = dict[str, Any]


def cluster(spec: Json | None = None, **status: Any) -> Json:
    return {"metadata": {"name": "team", "uid": "u"}, "spec": spec or {}, **({"status": status} if status else {})}


HEAD: Json = {"serviceName": "team-head-svc"}


def ready(type_: str = "HeadPodReady", true: bool = True, message: str = "") -> list[Json]:
    return [{"type": type_, "status": "True" if true else "False", "message": message}]


def see(body: Json | None) -> RayView:
    return see_cluster("team", "n", None if body is None else view_ray_cluster(body))


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        (None, "RayClusterMissing", "team does not exist"),
        ({**cluster(), "metadata": {"name": "team", "uid": "u", "deletionTimestamp": "now"}}, "RayClusterMissing", ""),
        (cluster({"suspend": True}, head=HEAD, conditions=ready()), "RayClusterSuspended", "suspended"),
        (cluster(), "RayClusterNotReady", "has not made its head Service yet"),
        (cluster(head=HEAD, state=""), "RayClusterNotReady", "its head is not ready"),
        (
            cluster(head=HEAD, conditions=ready("ReplicaFailure", message="no quota")),
            "RayClusterNotReady",
            "no quota",
        ),
        (cluster({"tlsOptions": {"enabled": True}}, head=HEAD), "RayClusterUnsupported", "tlsOptions"),
        (cluster({"authOptions": {"mode": "token", "enableK8sTokenAuth": True}}), "RayClusterUnsupported", "K8sToken"),
    ],
)
def test_why_there_is_no_trainer_yet(body: Json | None, reason: str, words: str) -> None:
    seen = see(body)
    assert (seen.reason, words in seen.message) == (reason, True)
    assert not seen.allows(running=False)


@pytest.mark.parametrize("status", [{"conditions": ready()}, {"state": "ready"}])
def test_a_ready_head_has_an_address(status: Json) -> None:
    seen = see(cluster({"authOptions": {"mode": "token"}}, head=HEAD, endpoints={"client": "10002"}, **status))
    assert seen == RayView(True, "ray://team-head-svc.n.svc:10002", token_secret="team")
    assert seen.allows(running=False)


def test_a_trainer_outlives_unreadiness_and_blindness_but_not_its_cluster() -> None:
    assert see(cluster(head=HEAD, conditions=ready(true=False))).allows(running=True)
    assert RayView(True, "", False, "KubeRayNotRead", known=False).allows(running=True)
    assert not RayView(True, "", False, "KubeRayNotRead", known=False).allows(running=False)
    assert not see(None).allows(running=True)
    assert NO_CLUSTER.allows(running=False)


@pytest.mark.parametrize(
    ("options", "secret"),
    [
        ({}, ""),
        ({"mode": "disabled", "secretName": "mine"}, ""),
        ({"mode": "token"}, "team"),
        ({"mode": "token", "secretName": "mine"}, "mine"),
    ],
)
def test_tokens_are_where_kuberay_puts_them(options: Json, secret: str) -> None:
    assert view_ray_cluster(cluster({"authOptions": options})).token_secret == secret


@pytest.mark.parametrize(
    ("status", "pods"),
    [
        ({}, False),
        ({"state": "suspended"}, False),
        ({"conditions": ready("RayClusterSuspended")}, False),
        ({"state": "ready"}, True),
    ],
)
def test_quota_is_held_while_the_cluster_may_have_pods(status: Json, pods: bool) -> None:
    assert view_ray_cluster(cluster(**status)).pods is pods
