"""The operator as a whole: caches, queues, controllers and their helpers, put together and run under kopf's shell."""

import asyncio
import gc
import logging
import os
import secrets
import socket
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from shoal.api.labels import MANAGED_BY, MANAGER
from shoal.api.v1alpha1 import EnvironmentPool, RLJob, RolloutFleet
from shoal.builders.images import Images
from shoal.builders.network import NetworkSettings
from shoal.controllers.context import Context
from shoal.controllers.effects import Effects, ExpectedBy
from shoal.controllers.fleet import FleetController
from shoal.controllers.job import JobController
from shoal.controllers.peers import Peers
from shoal.controllers.pool import PoolController
from shoal.controllers.preflight import Kind, Preflight
from shoal.controllers.review import Places
from shoal.controllers.status import StatusWriter
from shoal.controllers.wiring import Wiring
from shoal.controllers.world import World
from shoal.engine.clock import SystemClock
from shoal.engine.expectations import Expectations
from shoal.engine.leader import LeaderElector
from shoal.engine.manager import Manager
from shoal.engine.recorder import EventRecorder
from shoal.engine.reflector import Reflector
from shoal.engine.scrape import Scraper
from shoal.engine.shell import ShellSettings, run_shell
from shoal.engine.store import Change, ChangeType
from shoal.engine.visitor import NeighbourReflector
from shoal.kube.client import KubeClient
from shoal.kube.discovery import Neighbour, Neighbours
from shoal.kube.kubeconfig import find_source
from shoal.kube.resources import ENVIRONMENT_POOLS, NETWORK_POLICIES, PODS, RL_JOBS, ROLLOUT_FLEETS, SECRETS, SERVICES
from shoal.neighbours.kuberay.lookup import RayDesk
from shoal.neighbours.kueue.lookup import QueueDesk
from shoal.neighbours.maker import PLURALS, Holders
from shoal.planner.holders import LEADER_WORKER_SET, SANDBOX
from shoal.planner.tokens import TokenPolicy

COLLECT_AFTER = (100_000, 20, 20)
"""Thresholds of the three generations of Python's garbage collector."""

MANAGED = f"{MANAGED_BY}={MANAGER}"
"""Label selection of the objects that the operator caches; a cluster's other pods never reach it."""


@dataclass(frozen=True)
class OperatorSettings:
    """How the operator runs.

    Args:
        kubeconfig: file to log in with; None finds credentials as kubectl does.
        namespace: the one namespace to work in; None for all.
        images: image of each role.
        workers: resources of each kind reconciled at once.
        metrics_listen: HOST:PORT of /healthz, /readyz and /metrics; empty for none.
        leader_elect: wait for the lease before acting; needed with more than one replica.
        lease_name: the lease; operators that share one are replicas of each other.
        network: what the NetworkPolicies of the data plane need to know.
        tokens: when bearer tokens are renewed.
    """

    kubeconfig: Path | None = None
    namespace: str | None = None
    images: Images = field(default_factory=Images)
    workers: int = 8
    metrics_listen: str = ""
    leader_elect: bool = False
    lease_name: str = "shoal-operator"
    network: NetworkSettings = field(default_factory=NetworkSettings)
    tokens: TokenPolicy = field(default_factory=TokenPolicy)


def run_operator(settings: OperatorSettings) -> None:
    """Run until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # What is loaded by now stays; and the garbage of a decoded list needs no collector: with the default thresholds
    # it walks all caches over and over while they are read, which takes as long as the decoding itself.
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    shell = ShellSettings(listen=settings.metrics_listen, namespace=settings.namespace)

    async def build(client: KubeClient) -> Manager:
        return build_manager(client, settings)

    asyncio.run(run_shell(find_source(settings.kubeconfig), build, shell))


def build_manager(client: KubeClient, settings: OperatorSettings) -> Manager:
    """Everything wired together, not yet running."""
    clock = SystemClock()
    world = World()
    expectations: Expectations[ExpectedBy] = Expectations()
    recorder = EventRecorder(client, instance=socket.gethostname())
    scraper: Scraper[str] = Scraper()
    peers = Peers()
    neighbours = Neighbours(client, sleep=clock.sleep)
    holders = Holders(neighbours)
    effects = Effects(client, expectations, recorder, peers, clock, holders, neighbours)
    queues = QueueDesk(client, neighbours, world, settings.images, clock)
    status = StatusWriter(client)
    rays = RayDesk(world)
    context = Context(
        world,
        effects,
        scraper,
        status,
        clock,
        settings.images,
        settings.network,
        settings.tokens,
        neighbours,
        holders,
        queues,
        rays,
    )
    manager = Manager(client, elector=_elector(client, settings), clock=clock)
    background = {"events": recorder.run, "scraper": scraper.run, "peers": peers.run, "neighbours": neighbours.run}
    for name, run in background.items():
        manager.add_background(name, run)
    _wire(manager, client, context, expectations, settings)
    return manager


def _elector(client: KubeClient, settings: OperatorSettings) -> LeaderElector | None:
    if not settings.leader_elect:
        return None
    # The random part tells a container that was restarted in its pod from the one before: its lease is another's.
    identity = f"{os.environ.get('POD_NAME') or socket.gethostname()}_{secrets.token_hex(4)}"
    return LeaderElector(client, namespace=_lease_namespace(settings), identity=identity, name=settings.lease_name)


def _lease_namespace(settings: OperatorSettings) -> str:
    """Where the pod is, the chart allows Leases; not in the namespace that is watched."""
    return os.environ.get("POD_NAMESPACE") or settings.namespace or "default"


def _wire(
    manager: Manager,
    client: KubeClient,
    context: Context,
    expectations: Expectations[ExpectedBy],
    settings: OperatorSettings,
) -> None:
    """Connect each cache to the queues that its changes wake."""
    world, wiring = context.world, Wiring(context.world)
    pool, fleet, job = PoolController(context), FleetController(context), JobController(context)
    queues = {
        "pools": manager.add_controller("pools", pool, workers=settings.workers).queue,
        "fleets": manager.add_controller("fleets", fleet, workers=settings.workers).queue,
        "jobs": manager.add_controller("jobs", job, workers=settings.workers).queue,
    }

    def gone(change: Change[Any]) -> None:
        if change.type is ChangeType.DELETED:
            uid = change.entry.uid
            context.scraper.set_targets(uid, {})
            context.status.forget(uid)
            context.effects.forget(uid)
            pool.forget(uid)
            fleet.forget(uid)

    for name, resource, store in (
        ("pools", ENVIRONMENT_POOLS, world.pools),
        ("fleets", ROLLOUT_FLEETS, world.fleets),
        ("jobs", RL_JOBS, world.jobs),
    ):
        reflector = manager.add_reflector(Reflector(client, resource, store, namespace=settings.namespace))
        reflector.on_change(partial(wiring.resource_changed, queues[name]))
        reflector.on_change(gone)
        if name != "jobs":
            reflector.on_change(partial(wiring.dependency_changed, queues["jobs"], resource.kind))
            reflector.on_change(wiring.child_changed)
    pods = manager.add_reflector(Reflector(client, PODS, world.pods, namespace=settings.namespace, labels=MANAGED))
    pods.on_change(expectations.observe)
    pods.on_change(wiring.child_changed)
    owned = ((SERVICES, world.services), (SECRETS, world.tokens), (NETWORK_POLICIES, world.policies))
    for resource, children in owned if settings.network.enabled else owned[:2]:
        reflector_ = manager.add_reflector(
            Reflector(client, resource, children, namespace=settings.namespace, labels=MANAGED)
        )
        reflector_.on_change(wiring.child_changed)
    for kind, held in ((SANDBOX, world.sandboxes), (LEADER_WORKER_SET, world.leader_worker_sets)):
        holders = NeighbourReflector(
            client, context.neighbours, *PLURALS[kind], held, namespace=settings.namespace, labels=MANAGED
        )
        context.holders.follow(kind, manager.add_reflector(holders))
        holders.on_change(wiring.child_changed)
        holders.on_complete(wiring.wake_all)
    workloads = NeighbourReflector(
        client,
        context.neighbours,
        Neighbour.KUEUE,
        "workloads",
        world.workloads,
        namespace=settings.namespace,
        labels=MANAGED,
    )
    context.queues.follow(manager.add_reflector(workloads))
    # Not by label: a job may train on a RayCluster that somebody else made.
    clusters = NeighbourReflector(
        client, context.neighbours, Neighbour.KUBERAY, "rayclusters", world.ray_clusters, namespace=settings.namespace
    )
    context.rays.follow(manager.add_reflector(clusters))
    clusters.on_change(partial(wiring.dependency_changed, queues["jobs"], "RayCluster"))
    for visitor in (workloads, clusters):
        visitor.on_change(wiring.child_changed)
        visitor.on_complete(wiring.wake_all)
    context.scraper.on_change(wiring.wake)
    context.neighbours.on_change(wiring.wake_all)
    _check(manager, client, context, settings, wiring)


_OWN = frozenset({ENVIRONMENT_POOLS, ROLLOUT_FLEETS, RL_JOBS})
_SHARED = frozenset({PODS, SERVICES, SECRETS})


def _check(manager: Manager, client: KubeClient, context: Context, settings: OperatorSettings, wiring: Wiring) -> None:
    """Let each kind begin once its own caches are complete, and look for what stands in its way."""
    world = context.world
    shared = _SHARED | {NETWORK_POLICIES} if settings.network.enabled else _SHARED
    kinds = (
        Kind(ENVIRONMENT_POOLS, EnvironmentPool, world.pools, "pools", shared | {ENVIRONMENT_POOLS}),
        Kind(ROLLOUT_FLEETS, RolloutFleet, world.fleets, "fleets", shared | {ROLLOUT_FLEETS}),
        Kind(RL_JOBS, RLJob, world.jobs, "jobs", shared | _OWN),
    )
    needs = {kind.controller: kind.needs for kind in kinds}
    for controller in manager.controllers:
        # Neighbours' caches, too, which never keep anybody waiting.
        others = _OWN - needs[controller.name]
        controller.needs = [each for each in manager.reflectors if each.resource not in others]
    places = Places(settings.namespace or "", _lease_namespace(settings))
    preflight = Preflight(
        client,
        manager,
        kinds,
        context.status,
        context.neighbours,
        places,
        context.clock,
        elects=settings.leader_elect,
        wake=wiring.wake_all,
    )
    manager.add_background("preflight", preflight.run)
