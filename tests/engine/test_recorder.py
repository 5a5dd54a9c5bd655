"""Events: counted, combined, limited, and never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from shoal.engine.recorder import BURST, Correlator, EventRecorder, Reference
from shoal.kube import KubeClient, kubeconfig_source
from shoal.kube.credentials import Credentials, StaticSource
from shoal.kube.resources import CORE_EVENTS
from shoal.kube.retry import RetryPolicy
from tests.kubernetes import Kubernetes

POOL = Reference("rl.shoal.dev/v1alpha1", "EnvironmentPool", "n", "pool", "uid-1")


def decide(correlator: Correlator, message: str, now: float, about: Reference = POOL) -> Any:
    return correlator.decide(about, "Normal", "Scaled", message, now=now, stamp="t")


def test_the_same_event_is_counted_not_repeated() -> None:
    correlator = Correlator()
    first, second = decide(correlator, "to 3", 0), decide(correlator, "to 3", 1)
    assert (first.count, second.count) == (1, 2)
    assert first.name == second.name


def test_many_messages_of_one_reason_become_one_event() -> None:
    correlator = Correlator()
    decisions = [decide(correlator, f"to {number}", number) for number in range(15)]
    names = {decision.name for decision in decisions}
    assert len(names) == 11
    assert decisions[-1].message == "(combined from similar events): to 14"
    assert decisions[-1].count == 5
    assert not decide(correlator, "to 99", 2000).message.startswith("(combined")


def test_an_object_that_talks_too_much_is_cut_off_alone() -> None:
    correlator = Correlator()
    written = [decide(correlator, "x", 0) for _ in range(100)]
    assert sum(decision is not None for decision in written) == BURST
    assert decide(correlator, "x", 0, Reference("v1", "Pod", "n", "p", "uid-2")) is not None
    assert decide(correlator, "x", 299) is None
    assert decide(correlator, "x", 301) is not None


@asynccontextmanager
async def recording(client: KubeClient) -> AsyncIterator[EventRecorder]:
    recorder = EventRecorder(client)
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_events_appear_on_a_real_api_server(kubernetes: Kubernetes) -> None:
    about = {
        "apiVersion": "v1", "kind": "Pod", "namespace": kubernetes.namespace, "name": "one", "uid": "u"
    }  # fmt: skip
    async with KubeClient(kubeconfig_source(kubernetes.kubeconfig)) as client, recording(client) as recorder:
        for _ in range(3):
            await recorder.record(about, "Warning", "Replaced", "member one did not answer")
        await recorder.flush()
        events = (await client.list(CORE_EVENTS, kubernetes.namespace)).items
        assert [(event["reason"], event["count"], event["type"]) for event in events] == [("Replaced", 3, "Warning")]
        assert "member one did not answer" in kubernetes.kubectl("get", "events")
        # An event that expired on the server is written anew.
        await client.delete(CORE_EVENTS, events[0]["metadata"]["name"], kubernetes.namespace)
        await recorder.record(about, "Warning", "Replaced", "member one did not answer")
        await recorder.flush()
        assert [event["count"] for event in (await client.list(CORE_EVENTS, kubernetes.namespace)).items] == [1]


async def test_a_server_that_is_away_is_no_error() -> None:
    nobody = StaticSource(Credentials(server="http://127.0.0.1:1"))
    async with KubeClient(nobody, retry=RetryPolicy(attempts=1)) as client, recording(client) as recorder:
        await recorder.record(POOL, "Normal", "Scaled", "to 3")
        await recorder.flush()
        assert recorder.dropped == 1
