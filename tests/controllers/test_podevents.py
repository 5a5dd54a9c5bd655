"""What events say of a pod that does not start."""

import asyncio
from typing import Any, cast

import pytest

from shoal.controllers.podevents import (
    ASKED_PODS,
    FIRST_SECONDS,
    FRESH_SECONDS,
    LOOK_SECONDS,
    PodEvents,
    explain,
    is_stuck,
)
from shoal.kube.client import KubeClient
from shoal.planner.health import STUCK_SECONDS
from shoal.planner.observed import Holder, PodView, Trouble
from shoal.planner.times import timestamp
from tests.engine.fake_clock import FakeClock

BORN = 1_700_000_000.0


def pod(name: str = "p", **fields: Any) -> PodView:
    values = {"phase": "Pending", "ready": False, "deleting": False, "node": "n1", "since": BORN}
    return PodView(name=name, uid=name, role="environment", spec_hash="h", created_at=BORN, **(values | fields))


def event(reason: str, message: str, at: float = BORN + 5, uid: str = "p") -> dict[str, Any]:
    return {"reason": reason, "message": message, "lastTimestamp": timestamp(at), "involvedObject": {"uid": uid}}


@pytest.mark.parametrize(
    ("reason", "message", "told"),
    [
        ("FailedMount", 'MountVolume.SetUp failed for volume "c" : secret "x" not found', "ConfigurationMissing"),
        ("FailedMount", "references non-existent config key: a", "ConfigurationMissing"),
        ("FailedMount", "MountVolume.SetUp failed: mount.nfs: Connection timed out", "VolumeFailed"),
        ("FailedAttachVolume", "Multi-Attach error for volume", "VolumeFailed"),
        ("FailedCreatePodSandBox", "plugin type calico failed", "PodSandboxFailed"),
        ("FailedCreate", "exceeded quota: few", "CreateRefused"),
        ("FailedSync", "the node cannot read the pod", "CannotStart"),
    ],
)
def test_an_event_becomes_a_reason(reason: str, message: str, told: str) -> None:
    found = explain([event(reason, message)], pod(), BORN + 10)
    assert found is not None
    assert found.reason == told
    assert message in found.message


def test_only_what_is_new_and_about_this_pod_counts() -> None:
    def says(*events: dict[str, Any], seen: PodView | None = None, now: float = BORN + 10) -> str:
        found = explain(events, seen or pod(), now)
        return "" if found is None else found.message

    assert says(event("FailedMount", "x", uid="another")) == ""
    assert says(event("FailedMount", "x"), now=BORN + FRESH_SECONDS + 6) == ""
    assert says(event("FailedMount", "of an older pod", at=BORN - 1)) == ""
    assert says(event("Unhealthy", "Startup probe failed")) == "", "a program may load for as long as its probe allows"
    assert says(event("FailedMount", "old", BORN + 1), event("FailedAttachVolume", "new", BORN + 3)) == "new"
    held = pod(holder=Holder("LeaderWorkerSet", "e"), made=False, node="")
    assert says(event("FailedCreate", "exceeded quota", uid="its StatefulSet"), seen=held) == "exceeded quota"
    running = pod(phase="Running", started=True)
    assert explain([event("Unhealthy", "503")], running, BORN + 10) == Trouble("PodNotReady", "503")


@pytest.mark.parametrize(
    ("seen", "after", "stuck"),
    [
        (pod(), FIRST_SECONDS - 0.1, False),
        (pod(), FIRST_SECONDS, True),
        (pod(node=""), 1e6, False),
        (pod(node="", made=False, holder=Holder("Sandbox", "p")), FIRST_SECONDS, True),
        (pod(started=True, phase="Running"), STUCK_SECONDS - 0.1, False),
        (pod(started=True, phase="Running"), STUCK_SECONDS, True),
        *(
            (pod(**fields), 1e6, False)
            for fields in (
                {"ready": True},
                {"deleting": True},
                {"phase": "Failed"},
                {"gated": True},
                {"unschedulable": "no node"},
                {"trouble": Trouble("ErrImagePull", "x")},
            )
        ),
    ],
)
def test_which_pods_are_looked_up(seen: PodView, after: float, stuck: bool) -> None:
    assert is_stuck(seen, BORN + after) is stuck


class FakeEvents:
    """Answers every look-up with the same events, and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.items = [event("FailedMount", "timed out", uid=f"p{number}") for number in range(9)]

    async def list(self, _: Any, namespace: str, *, fields: str) -> "FakeEvents":
        self.asked.append(fields)
        return self


async def test_a_healthy_pool_asks_nothing_and_a_broken_one_little() -> None:
    client, clock = FakeEvents(), FakeClock()
    events = PodEvents(cast(KubeClient, client), clock)
    woken: list[str] = []
    events.on_change(woken.append)
    running = asyncio.create_task(events.run())
    now = clock.wall().timestamp()
    client.items = [event("FailedMount", "timed out", now, f"p{number}") for number in range(9)]
    born = now - 60
    pods = [PodView(**_fields(number, born)) for number in range(9)]
    for _ in range(50):
        seen = events.explained("u", "ns", pods, now)
        await asyncio.sleep(0)
    assert len(client.asked) == ASKED_PODS
    assert woken == ["u"] * ASKED_PODS
    told = [each.obstacle for each in seen if each.obstacle is not None]
    assert told == [Trouble("VolumeFailed", "timed out")] * ASKED_PODS
    due = events.due_in("u")
    assert due is not None
    assert due <= LOOK_SECONDS
    healthy = [PodView(**(_fields(number, born) | {"ready": True})) for number in range(9)]
    assert events.explained("u", "ns", healthy, now) == healthy
    assert events.due_in("u") is None
    running.cancel()


def _fields(number: int, born: float) -> dict[str, Any]:
    name = f"p{number}"
    return {
        "name": name,
        "uid": name,
        "role": "environment",
        "spec_hash": "h",
        "phase": "Pending",
        "ready": False,
        "deleting": False,
        "created_at": born,
        "node": "n1",
    }
