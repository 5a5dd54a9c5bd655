"""The pod's state machine, driven by random events."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_embedded.node.decide import BackoffPolicy, Phase, Start, Stop, after_end, decide, phase_of
from shoal_embedded.node.podspec import Kind, Pod
from shoal_embedded.node.procfs import ProcessId
from shoal_embedded.node.records import ContainerRecord, Ended, PodRecord
from shoal_embedded.node.status import Place, build_status

Json = dict[str, Any]
POLICY = BackoffPolicy(base=1.0, cap=8.0)


def make_pod(main: int = 1, init: tuple[str, ...] = (), policy: str = "Always", deleting: bool = False) -> Pod:
    """A pod with `main` containers and init containers of kinds `init` or `sidecar`."""
    early = [
        {"name": f"i{index}", **({"restartPolicy": "Always"} if kind == "sidecar" else {})}
        for index, kind in enumerate(init)
    ]
    metadata: Json = {"name": "pod", "namespace": "default", "uid": "u"}
    if deleting:
        metadata |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 3}
    containers = [{"name": f"m{index}"} for index in range(main)]
    return Pod(
        {"metadata": metadata, "spec": {"restartPolicy": policy, "containers": containers, "initContainers": early}}
    )


class FakeNode:
    """Does what `decide` says, without processes."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.records = {container.name: ContainerRecord(container.name) for container in pod.containers}
        self.now = 1000.0

    def act(self) -> None:
        """Decide and do it; check what must never be decided."""
        decision = decide(self.pod, self.records, self.now)
        for action in decision.actions:
            record = self.records[action.container]
            if isinstance(action, Start):
                assert not record.running
                assert not self.pod.deleting
                assert decision.phase in (Phase.PENDING, Phase.RUNNING)
                record.attempt += 1
                record.shim, record.started_at = ProcessId(1, 1), self.now
                record.last, record.ended = record.ended, None
            else:
                assert record.running
                record.stopping = True
        assert not (decision.gone and any(record.running for record in self.records.values()))

    def end(self, name: str, code: int) -> None:
        """End a container that runs."""
        record = self.records[name]
        if not record.running:
            return
        record.shim, record.stopping, record.started = None, False, False
        record.ended = Ended(code, "", "", record.started_at, self.now)
        after_end(record, self.now, POLICY)

    def up(self, name: str) -> None:
        """Let a running container pass its startup."""
        if self.records[name].running:
            self.records[name].started = self.records[name].was_up = True


EVENTS = st.lists(
    st.tuples(st.sampled_from(["end", "up", "time", "delete"]), st.integers(0, 4), st.integers(0, 2)), max_size=40
)


@given(
    st.integers(1, 2),
    st.lists(st.sampled_from(["init", "sidecar"]), max_size=2).map(tuple),
    st.sampled_from(["Always", "OnFailure", "Never"]),
    EVENTS,
)
@settings(max_examples=300, deadline=None)
def test_whatever_happens(main: int, init: tuple[str, ...], policy: str, events: list[tuple[str, int, int]]) -> None:
    node = FakeNode(make_pod(main, init, policy))
    names = list(node.records)
    over: Phase | None = None
    for kind, which, code in events:
        name = names[which % len(names)]
        if kind == "end":
            node.end(name, code)
        elif kind == "up":
            node.up(name)
        elif kind == "time":
            node.now += 3.0
        elif which == 0:
            node.pod = make_pod(main, init, policy, deleting=True)
        node.act()
        phase = phase_of(node.pod, node.records)
        assert over is None or phase is over, "a finished pod came back"
        over = phase if phase in (Phase.SUCCEEDED, Phase.FAILED) else None
        check_status(node)
    for container in node.pod.containers:
        record = node.records[container.name]
        if policy == "Never" and container.kind is not Kind.SIDECAR:
            assert record.attempt <= 1


def check_status(node: FakeNode) -> None:
    """The status is the same twice, and only running containers show as running."""
    place = Place("127.0.0.1", PodRecord("u", "default", "pod", "127.128.0.1", 0.0, ""))
    status = build_status(node.pod, node.records, place, node.now)
    assert build_status(node.pod, node.records, place, node.now + 9, status)["conditions"] == status["conditions"]
    for each in status["containerStatuses"] + status.get("initContainerStatuses", []):
        assert len(each["state"]) == 1
        assert ("running" in each["state"]) == node.records[each["name"]].running


def test_a_deleted_pod_stops_and_is_gone() -> None:
    node = FakeNode(make_pod(2, ("sidecar",)))
    node.act()
    node.up("i0")
    node.act()
    node.pod = make_pod(2, ("sidecar",), deleting=True)
    stops = decide(node.pod, node.records, node.now).actions
    assert stops == (Stop("m0", 3.0), Stop("m1", 3.0))
    node.act()
    node.end("m0", 0)
    node.end("m1", 0)
    assert decide(node.pod, node.records, node.now).actions == (Stop("i0", 3.0),)
    node.end("i0", 0)
    assert decide(node.pod, node.records, node.now).gone


def test_back_off() -> None:
    assert [BackoffPolicy().delay(crashes) for crashes in range(8)] == [0, 10, 20, 40, 80, 160, 300, 300]
    record = ContainerRecord("m", crashes=5, ended=Ended(1, "", "", 0.0, 700.0))
    after_end(record, 700.0, POLICY)
    assert record.retry_at == 700.0


@pytest.mark.parametrize(("policy", "code", "phase"), [("Never", 1, "Failed"), ("OnFailure", 0, "Succeeded")])
def test_a_pod_ends(policy: str, code: int, phase: str) -> None:
    node = FakeNode(make_pod(2, policy=policy))
    node.act()
    node.end("m0", 0)
    assert phase_of(node.pod, node.records) == "Running"
    node.end("m1", code)
    assert phase_of(node.pod, node.records) == phase
