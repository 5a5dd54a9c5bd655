"""The operator as a whole: caches, queues, controllers and their helpers, put together and run under kopf's shell."""

import asyncio
import gc
import os
import secrets
import socket
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from shoal.api.labels import ROLE
from shoal.api.v1alpha1 import EnvironmentPool, RLJob, RolloutFleet
from shoal.builders.images import Images
from shoal.builders.network import NetworkSettings
from shoal.controllers.context import Context
from shoal.controllers.effects import Effects
from shoal.controllers.fleet import FleetController
from shoal.controllers.job import JobController, uses
from shoal.controllers.peers import Peers
from shoal.controllers.podevents import PodEvents
from shoal.controllers.pool import PoolController
from shoal.controllers.preflight import Kind, Preflight
from shoal.controllers.review import Places
from shoal.controllers.status import StatusWriter
from shoal.controllers.wiring import Wiring
from shoal.controllers.world import World
from shoal.engine.clock import SystemClock
from shoal.engine.expectations import Expectations
from shoal.engine.leader import LeaderElector
from shoal.engine.logs import set_up_logging
from shoal.engine.manager import Manager
from shoal.engine.recorder import EventRecorder
from shoal.engine.reflector import Reflector
from shoal.engine.scrape import Scraper
from shoal.engine.shell import ShellSettings, run_shell
from shoal.engine.store import Change, ChangeType
from shoal.kube.client import KubeClient
from shoal.kube.discovery import Discovery
from shoal.kube.kubeconfig import find_source
from shoal.kube.resources import ENVIRONMENT_POOLS, NETWORK_POLICIES, PODS, RL_JOBS, ROLLOUT_FLEETS, SECRETS, SERVICES
from shoal.neighbours.maker import ExpectedBy
from shoal.neighbours.neighbour import MANAGED, Surroundings
from shoal.neighbours.registry import NEEDS, Neighbourhood, rules_for
from shoal.planner.tokens import TokenPolicy

COLLECT_AFTER = (100_000, 20, 20)
"""Thresholds of the three generations of Python's garbage collector."""


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
        log_level: least level that is logged, of `shoal.engine.logs.LEVELS`.
        log_format: text, or json for one object a line.
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
    log_level: str = "info"
    log_format: str = "text"


def run_operator(settings: OperatorSettings) -> None:
    """Run until SIGTERM or SIGINT."""
    set_up_logging(settings.log_level, settings.log_format)
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
    discovery = Discovery(client, NEEDS, sleep=clock.sleep)
    neighbours = Neighbourhood(Surroundings(client, discovery, settings.images, clock, settings.namespace))
    world = World(neighbours)
    expectations: Expectations[ExpectedBy] = Expectations()
    recorder = EventRecorder(client, instance=socket.gethostname())
    scraper: Scraper[str] = Scraper()
    peers = Peers()
    effects = Effects(client, expectations, recorder, peers, clock, neighbours)
    status = StatusWriter(client)
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
        PodEvents(client, clock),
    )
    manager = Manager(client, elector=_elector(client, settings), clock=clock)
    background = {"events": recorder.run, "scraper": scraper.run, "peers": peers.run, "neighbours": discovery.run}
    background["pod events"] = context.events.run
    for name, run in background.items():
        manager.add_background(name, run)
    _wire(manager, client, context, expectations, discovery, settings)
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
    discovery: Discovery,
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
            context.events.forget(uid)
            for controller in (pool, fleet, job):
                controller.forget(uid)

    for name, resource, store in (
        ("pools", ENVIRONMENT_POOLS, world.pools),
        ("fleets", ROLLOUT_FLEETS, world.fleets),
        ("jobs", RL_JOBS, world.jobs),
    ):
        reflector = manager.add_reflector(Reflector(client, resource, store, namespace=settings.namespace))
        reflector.on_change(partial(wiring.resource_changed, queues[name]))
        reflector.on_change(gone)
        if name != "jobs":
            reflector.on_change(partial(wiring.dependency_changed, queues["jobs"], partial(uses, resource.kind)))
            reflector.on_change(wiring.child_changed)
    pods = manager.add_reflector(Reflector(client, PODS, world.pods, namespace=settings.namespace, labels=ROLE))
    pods.on_change(expectations.observe)
    pods.on_change(wiring.child_changed)
    owned = ((SERVICES, world.services), (SECRETS, world.tokens), (NETWORK_POLICIES, world.policies))
    for resource, children in owned if settings.network.enabled else owned[:2]:
        reflector_ = manager.add_reflector(
            Reflector(client, resource, children, namespace=settings.namespace, labels=MANAGED)
        )
        reflector_.on_change(wiring.child_changed)
    for neighbour in context.neighbours.all:
        for mirror in neighbour.reflectors:
            manager.add_reflector(mirror)
            if neighbour.dependency:
                mirror.on_change(partial(wiring.dependency_changed, queues["jobs"], neighbour.uses))
            mirror.on_change(wiring.child_changed)
            mirror.on_complete(wiring.wake_all)
    context.scraper.on_change(wiring.wake)
    context.events.on_change(wiring.wake)
    discovery.on_change(wiring.wake_all)
    _check(manager, client, context, discovery, settings, wiring)


_OWN = frozenset({ENVIRONMENT_POOLS, ROLLOUT_FLEETS, RL_JOBS})
_SHARED = frozenset({PODS, SERVICES, SECRETS})


def _check(
    manager: Manager,
    client: KubeClient,
    context: Context,
    discovery: Discovery,
    settings: OperatorSettings,
    wiring: Wiring,
) -> None:
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
        discovery,
        lambda: rules_for(context.neighbours.installed),
        places,
        context.clock,
        elects=settings.leader_elect,
        wake=wiring.wake_all,
    )
    manager.add_background("preflight", preflight.run)
