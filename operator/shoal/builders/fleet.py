"""A RolloutFleet's objects: its gateway, its engines, their Service and Secret."""

from collections.abc import Callable
from typing import Any

from shoal.api.labels import FLEET, OWN_TOKEN, PORTS, ROLE, WORKER_GROUP, Role
from shoal.api.services.models import InFlightPolicy
from shoal.api.services.roles.engine import EngineConfig
from shoal.api.services.roles.gateway import GatewayConfig
from shoal.api.v1alpha1.rolloutfleet import RolloutFleetSpec, WorkerGroup
from shoal.builders.helpers import helper_template
from shoal.builders.images import Images
from shoal.builders.owner import Owner
from shoal.builders.pods import PodPlan, build_pod
from shoal.builders.storage import model_volume, shared_volume

Manifest = dict[str, Any]

ENGINE_START_SECONDS = 1800
"""Loading a large model from a cold disk takes tens of minutes; a probe that gives up earlier would loop for ever."""
ENGINE_GRACE_SECONDS = 30


def fleet_owner(name: str, namespace: str, uid: str) -> Owner:
    """The owner of a fleet's children."""
    return Owner("RolloutFleet", name, namespace, uid, FLEET)


def engine_selector(name: str) -> str:
    """Label selector of a fleet's engines."""
    return f"{ROLE}={Role.ENGINE},{FLEET}={name}"


def build_gateway(owner: Owner, spec: RolloutFleetSpec, images: Images) -> Manifest:
    """The gateway's pod."""
    model, volumes, mounts = model_volume(spec.model)
    config = GatewayConfig(
        port=PORTS[Role.GATEWAY],
        fleet=owner.name,
        served_name=spec.model.served_name,
        model=model,
        policy=spec.routing.policy.value,
        max_in_flight_per_engine=spec.routing.max_in_flight_per_engine,
        queue_limit=spec.routing.queue_limit,
        strategy=spec.weights.strategy.value,
        max_unavailable=spec.weights.max_unavailable,
        in_flight=InFlightPolicy(spec.weights.in_flight.value),
        drain_seconds=spec.weights.drain_seconds,
    )
    return build_pod(
        owner,
        PodPlan(
            role=Role.GATEWAY,
            image=images.of(Role.GATEWAY),
            config=config,
            tokens={
                OWN_TOKEN: owner.secret,
                Role.ENGINE: owner.secret_for(Role.ENGINE),
                Role.AGENT: owner.secret_for(Role.AGENT),
            },
            name=owner.service(Role.GATEWAY),
            template=helper_template(spec.helpers),
            volumes=volumes,
            mounts=mounts,
        ),
        images,
    )


def build_engines(
    owner: Owner,
    spec: RolloutFleetSpec,
    images: Images,
    made: Callable[[WorkerGroup, Manifest], Manifest] = lambda _, pod: pod,
) -> dict[str, Manifest]:
    """Worker group name -> engine, alone or at the head of several pods.

    `made` takes an engine's pod and gives the object that is created in its place; without it that is the pod.
    """
    return {group.name: made(group, _build_engine(owner, spec, group, images)) for group in spec.worker_groups}


def _build_engine(owner: Owner, spec: RolloutFleetSpec, group: WorkerGroup, images: Images) -> Manifest:
    model, model_volumes, model_mounts = model_volume(spec.model)
    volumes, mounts = shared_volume(spec.storage)
    config = EngineConfig(
        port=PORTS[Role.ENGINE],
        fleet=owner.name,
        type=spec.engine.type.value,
        model=model,
        served_name=spec.model.served_name,
        max_model_len=spec.model.max_model_len,
        dtype=spec.model.dtype.value,
        tensor_parallel=group.tensor_parallel,
        nodes=group.nodes,
        args=spec.engine.args,
        gateway_url=owner.url(Role.GATEWAY, PORTS[Role.GATEWAY]),
    )
    return build_pod(
        owner,
        PodPlan(
            role=Role.ENGINE,
            package="engines",
            image=spec.engine.image or images.of(Role.ENGINE),
            config=config,
            tokens={OWN_TOKEN: owner.secret_for(Role.ENGINE)},
            labels={WORKER_GROUP: group.name},
            volumes=[*volumes, *model_volumes],
            mounts=[*mounts, *model_mounts],
            template=group.template,
            grace_seconds=ENGINE_GRACE_SECONDS,
            startup_seconds=ENGINE_START_SECONDS,
        ),
        images,
    )
