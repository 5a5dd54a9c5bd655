"""A cluster without nodes at which the operator works: real API server and garbage collector, fakes for what runs."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from shoal.api.labels import PORTS, ROLE, Role
from shoal.api.services.leases import BrokerStatus, MemberStatus, SlotTotals
from shoal.api.services.models import EnginePhase, GatewayEngine, GatewayStatus
from shoal.controllers.operator import OperatorSettings, build_manager
from shoal.crdgen import generate
from shoal.engine.reflector import Reflector
from shoal.engine.store import Store
from shoal.kube.client import KubeClient
from shoal.kube.errors import ApiError
from shoal.kube.kubeconfig import kubeconfig_source
from shoal.kube.resources import CORE_EVENTS, PODS, Resource
from shoal.neighbours.registry import rules_for
from tests.kubernetes import Kubernetes, KubernetesServer

Json = dict[str, Any]
SERVICES = (Role.BROKER, Role.GATEWAY)


def install_shoal(server: KubernetesServer) -> None:
    """Install Shoal's own definitions."""
    server.kubectl("apply", "--server-side", "-f", "-", stdin=generate.as_yaml())
    names = [f"crd/{definition['metadata']['name']}" for definition in generate.definitions()]
    server.kubectl("wait", "--for=condition=Established", "--timeout=20s", *names)


def operator_account(server: KubernetesServer, name: str, path: Path, *neighbours: str) -> Path:
    """Make an account that may do what the operator needs beside these neighbours; returns its kubeconfig."""
    allow(server, name, *neighbours)
    server.kubectl("create", "serviceaccount", name)
    server.kubectl("create", "clusterrolebinding", name, f"--clusterrole={name}", f"--serviceaccount=default:{name}")
    return server.write_kubeconfig(path, token=server.kubectl("create", "token", name, "--duration=2h").strip())


def allow(server: KubernetesServer, name: str, *neighbours: str) -> None:
    """Have the role of this account hold the operator's rules beside these neighbours, and nothing else."""
    rules = [
        {"apiGroups": [rule.group], "resources": list(rule.resources), "verbs": list(rule.granted)}
        for rule in rules_for(neighbours)
    ]
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}}
    server.kubectl("apply", "-f", "-", stdin=json.dumps({**role, "rules": rules}))


def accepts(kubernetes: Kubernetes, manifest: Json) -> None:
    """Have the API server check a built object without storing it: unknown fields are refused, none is dropped."""
    command = ("create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-")
    stored = json.loads(kubernetes.kubectl(*command, stdin=json.dumps(manifest)))
    _kept(manifest["spec"], stored["spec"], "spec")


def _kept(sent: Any, stored: Any, path: str) -> None:
    if isinstance(sent, dict):
        for key, value in sent.items():
            assert key in stored, f"{path}.{key} was dropped"
            _kept(value, stored[key], f"{path}.{key}")
    elif isinstance(sent, list):
        assert len(sent) == len(stored), path
        for index, value in enumerate(sent):
            _kept(value, stored[index], f"{path}[{index}]")
    else:
        assert sent == stored, path


def wait_served(server: KubernetesServer, group_version: str) -> None:
    """Return once the API server serves this group; a definition is served a moment after it is accepted."""
    deadline = time.monotonic() + 60
    while "resources" not in server.kubectl("get", "--raw", f"/apis/{group_version}", check=False):
        assert time.monotonic() < deadline, f"{group_version} is not served"
        time.sleep(0.1)


class FakeNode:
    """Says of every pod that it runs and is ready, and lets deleted pods go; brokers and gateways get `address`."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        # Roles have fixed ports: an address of its own keeps two tests of one machine apart.
        self.address = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}.{secrets.randbelow(250) + 2}"
        self.ready: dict[str, str] = {}
        """Name -> role of the pods that are ready."""
        self.held: set[str] = set()
        """Names of pods that do not become ready."""

    async def step(self) -> None:
        pods = (await self._client.list(PODS, self._namespace)).items
        for pod in pods:
            await self._settle(pod)
        alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        self.ready = {
            pod["metadata"]["name"]: pod["metadata"]["labels"].get(ROLE, "")
            for pod in alive
            if pod["metadata"]["name"] not in self.held
        }

    async def _settle(self, pod: Json) -> None:
        metadata, name = pod["metadata"], pod["metadata"]["name"]
        if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
            await self._client.delete(PODS, name, self._namespace, uid=metadata["uid"], grace_seconds=0)
            return
        ready = "False" if name in self.held else "True"
        status = pod.get("status", {})
        told = {each["type"]: each["status"] for each in status.get("conditions", [])}
        if status.get("phase") == "Running" and told.get("Ready") == ready:
            return
        address = self.address if metadata["labels"].get(ROLE) in SERVICES else f"{self.address.rpartition('.')[0]}.1"
        wanted = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": ready}],
        }
        await self._client.patch_status(PODS, name, wanted, self._namespace)


class FakeServices:
    """Answers the operator as a pool's broker and a fleet's gateway do, knowing every ready member and engine."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node
        self.busy: set[str] = set()
        """Members with a lease and engines with a request: they cannot be let go yet."""
        self.asked_to_go: set[str] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        runners = []
        try:
            for role, status, verb in (
                (Role.BROKER, self._broker, "/members/{name}:retire"),
                (Role.GATEWAY, self._gateway, "/engines/{name}:drain"),
            ):
                application = web.Application()
                application.router.add_get("/status", status)
                application.router.add_post(verb, self._let_go)
                runners.append(web.AppRunner(application))
                await runners[-1].setup()
                await web.TCPSite(runners[-1], self._node.address, PORTS[role]).start()
            yield
        finally:
            for runner in runners:
                await runner.cleanup()

    async def _broker(self, _: web.Request) -> web.Response:
        members = [self._member(name) for name, role in self._node.ready.items() if role == Role.ENVIRONMENT]
        return web.Response(text=BrokerStatus(members=members).model_dump_json(), content_type="application/json")

    def _member(self, name: str) -> MemberStatus:
        busy = name in self.busy
        slots = SlotTotals(total=1, leased=int(busy), free=int(not busy))
        return MemberStatus(name=name, uid="", url="", variant="default", slots=slots)

    async def _gateway(self, _: web.Request) -> web.Response:
        engines = [self._engine(name) for name, role in self._node.ready.items() if role == Role.ENGINE]
        status = GatewayStatus(target_version=3, min_version=3, max_version=3, engines=engines)
        return web.Response(text=status.model_dump_json(), content_type="application/json")

    def _engine(self, name: str) -> GatewayEngine:
        return GatewayEngine(
            name=name,
            url="",
            phase=EnginePhase.READY,
            weight_version=3,
            running=int(name in self.busy),
            waiting=0,
            kv_use=0.0,
            routed=True,
            age=0.0,
        )

    async def _let_go(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.asked_to_go.add(name)
        left = int(name in self.busy)
        return web.json_response({"leased": left, "running": left})


class Census:
    """Counts pods by a label selection at every instant of the watch."""

    def __init__(self, client: KubeClient, namespace: str, labels: str) -> None:
        self._store: Store[str] = Store(lambda pod: str(pod["metadata"]["name"]))
        self.reflector = Reflector(client, PODS, self._store, namespace=namespace, labels=labels)
        self.reflector.on_change(lambda _: self._count())
        self.peak = 0

    def _count(self) -> None:
        self.peak = max(self.peak, len(self._store))

    def again(self) -> None:
        """Begin a new measurement."""
        self.peak = len(self._store)


class Stage:
    """One namespace with an operator, a node and services at work."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        node: FakeNode,
        services: FakeServices,
        operator: asyncio.Task[None],
    ) -> None:
        self._operator = operator
        self.client = client
        self.namespace = namespace
        self.node = node
        self.services = services

    async def apply(self, resource: Resource, body: Json) -> Json:
        return await self.client.apply(resource, body, self.namespace)

    async def all(self, resource: Resource, labels: str | None = None) -> list[Json]:
        return (await self.client.list(resource, self.namespace, labels=labels)).items

    async def pods(self, role: str) -> list[Json]:
        return await self.all(PODS, f"{ROLE}={role}")

    async def status(self, resource: Resource) -> Json:
        return dict((await self.client.get(resource, "sample", self.namespace)).get("status", {}))

    async def condition(self, resource: Resource, type_: str) -> tuple[str, str, str]:
        """Status, reason and message of one condition of the resource `sample`."""
        for each in (await self.status(resource)).get("conditions", []):
            if each["type"] == type_:
                return each["status"], each["reason"], each["message"]
        return "", "", ""

    async def events(self) -> list[str]:
        return [event["reason"] for event in await self.all(CORE_EVENTS)]

    async def kill_operator(self) -> None:
        """End the operator wherever it is, in the middle of a request too; nothing it knew is left."""
        self._operator.cancel()
        await asyncio.wait({self._operator})

    async def until(self, true: Callable[[], Awaitable[bool]], what: str, *, seconds: float = 30) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not await true():
            assert asyncio.get_running_loop().time() < deadline, what
            await asyncio.sleep(0.05)


async def repeat(step: Callable[[], Awaitable[None]]) -> None:
    """Do a fake controller's work again and again; a refusal of the API server is tried again, as they do."""
    while True:
        with suppress(ApiError):
            await step()
        await asyncio.sleep(0.05)


Fake = Callable[[KubeClient, str], Callable[[], Awaitable[None]]]
"""Makes a neighbour's controller for a namespace: what is called again and again."""


@asynccontextmanager
async def operating(kubernetes: Kubernetes, *fakes: Fake, kubeconfig: Path | None = None) -> AsyncIterator[Stage]:
    """The operator (as the user of `kubeconfig`) and its surroundings at work in one namespace for the block."""
    source = kubeconfig_source(kubernetes.kubeconfig)
    own = kubeconfig_source(kubeconfig or kubernetes.kubeconfig)
    async with KubeClient(own) as client, KubeClient(source, field_manager="tester") as tester:
        node = FakeNode(tester, kubernetes.namespace)
        services = FakeServices(node)
        manager = build_manager(client, OperatorSettings(namespace=kubernetes.namespace))
        steps = [node.step, *(make(tester, kubernetes.namespace) for make in fakes)]
        async with services.running():
            operator = asyncio.create_task(manager.run())
            tasks = [asyncio.create_task(repeat(step)) for step in steps]
            try:
                yield Stage(tester, kubernetes.namespace, node, services, operator)
            finally:
                manager.stop()
                await asyncio.wait({operator})
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                if not operator.cancelled():
                    operator.result()


@asynccontextmanager
async def counting(stage: Stage, role: str) -> AsyncIterator[Census]:
    """Count the pods of a role at every instant of the block."""
    census = Census(stage.client, stage.namespace, f"{ROLE}={role}")
    task = asyncio.create_task(census.reflector.run())
    await census.reflector.synced.wait()
    try:
        yield census
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
