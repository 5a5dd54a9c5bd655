"""What was asked for of another operator's kind is counted until that kind's own cache shows it."""

from typing import Any, cast

from shoal.builders.environment import build_members, pool_owner
from shoal.builders.images import Images
from shoal.controllers.effects import Effects, Subject
from shoal.controllers.world import World
from shoal.engine.expectations import Expectations
from shoal.engine.store import Store
from shoal.kube.client import KubeClient
from shoal.kube.resources import ENVIRONMENT_POOLS, Resource
from shoal.neighbours.sandbox import AgentSandbox
from shoal.neighbours.sandbox.manifest import SANDBOX, sandbox_of
from shoal.planner.actions import CreatePod, DeletePod
from shoal.planner.observed import Holder
from shoal.planner.pool import expectation
from tests.builders.test_pods import pool
from tests.engine.fake_clock import FakeClock
from tests.neighbours.fakes import FakeDiscovery, neighbourhood

Json = dict[str, Any]
OWNER = pool_owner("p", "ns", "u1")
ROLE = expectation("default")
SANDBOXED = sandbox_of(OWNER, build_members(OWNER, pool(backend="AgentSandbox"), Images("1"))["default"])


class FakeClient:
    """Notes what is written and keeps nothing."""

    def __init__(self) -> None:
        self.created: list[Json] = []
        self.deleted: list[tuple[str, str, str]] = []

    async def create(self, resource: Resource, body: Json, _: str) -> Json:
        self.created.append(body)
        return body

    async def delete(
        self, resource: Resource, name: str, _: str, *, uid: str, propagation: str, grace_seconds: int | None
    ) -> Json:
        self.deleted.append((resource.kind, name, propagation))
        return {}


class Bench:
    def __init__(self, *, there: bool = True) -> None:
        self.client = FakeClient()
        self.discovery = FakeDiscovery("agent-sandbox") if there else FakeDiscovery()
        self.neighbours = neighbourhood(self.discovery)
        (self.sandboxes,) = (each for each in self.neighbours.all if isinstance(each, AgentSandbox))
        self.pods: Expectations[tuple[str, str]] = Expectations()
        client, clock, none = cast(KubeClient, self.client), FakeClock(), cast(Any, None)
        self.effects = Effects(client, self.pods, none, none, clock, self.neighbours)

    async def do(self, *actions: Any) -> None:
        await self.effects.perform(Subject(OWNER, ENVIRONMENT_POOLS), actions)

    def creating(self) -> int:
        return self.effects.expected(OWNER, [ROLE]).creating(ROLE)


def seen(store: Store[Any], body: Json, **metadata: Any) -> Any:
    known = {"uid": "u9", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z", **metadata}
    (change,) = store.put(store.read({**body, "metadata": {**body["metadata"], **known}}))
    return change


async def test_a_sandboxs_pod_does_not_settle_the_sandbox() -> None:
    bench = Bench()
    world = World(bench.neighbours)
    await bench.do(CreatePod(ROLE, SANDBOXED))
    (created,) = bench.client.created
    assert bench.creating() == 1
    # The pod has the Sandbox's name, and its watch may be the faster one: counting neither would make a third.
    bench.pods.observe(seen(world.pods, created))
    assert bench.creating() == 1
    bench.sandboxes.expectations.observe(seen(bench.sandboxes.store, created))
    assert bench.creating() == 0


async def test_a_holder_is_deleted_in_the_foreground_in_its_pods_place() -> None:
    bench = Bench()
    await bench.do(DeletePod(ROLE, "x-0", "u9", "ScaleDown", Holder(SANDBOX, "x")), DeletePod(ROLE, "y", "u8", "Old"))
    assert sorted(bench.client.deleted) == [("Pod", "y", "Background"), (SANDBOX, "x", "Foreground")]
    assert bench.effects.expected(OWNER, [ROLE]).deletions == {"u8", "u9"}


async def test_nothing_is_made_of_a_kind_that_has_just_gone() -> None:
    bench = Bench(there=False)
    await bench.do(CreatePod(ROLE, SANDBOXED), DeletePod(ROLE, "x", "u9", "ScaleDown", Holder(SANDBOX, "x")))
    assert (bench.client.created, bench.client.deleted) == ([], [])
    assert bench.creating() == 0


def test_what_blocks_a_kind_is_told_with_what_to_do() -> None:
    bench = Bench(there=False)
    blocked = bench.neighbours.blocked([SANDBOXED])
    assert blocked is not None
    assert (blocked.reason, "kubernetes-sigs/agent-sandbox" in blocked.message) == ("BackendMissing", True)
    bench.discovery.there.add("agent-sandbox")
    blocked = bench.neighbours.blocked([SANDBOXED])
    assert blocked is not None
    assert blocked.reason == "BackendNotRead"
    (reflector,) = bench.sandboxes.reflectors
    reflector._set(complete=False, refusal="sandboxes is forbidden")
    blocked = bench.neighbours.blocked([SANDBOXED])
    assert blocked is not None
    assert blocked.reason == "BackendForbidden"
    reflector._set(complete=True, refusal="")
    assert bench.neighbours.blocked([SANDBOXED]) is None
