"""An EnvironmentPool's objects: its broker, its members, their Service and Secret."""

from collections.abc import Callable
from typing import Any

from shoal.api.labels import OWN_TOKEN, POOL, PORTS, ROLE, VARIANT, Role
from shoal.api.services.leases import DEFAULT_VARIANT
from shoal.api.services.roles.broker import BrokerConfig
from shoal.api.services.roles.environment import EnvironmentConfig, EnvironmentSource, LifecycleConfig
from shoal.api.v1alpha1.common import seconds
from shoal.api.v1alpha1.environmentpool import (
    OPENENV,
    EnvironmentPoolSpec,
    Lifecycle,
    LifecycleMode,
    Variant,
)
from shoal.builders.defaults import restricted
from shoal.builders.helpers import helper_template
from shoal.builders.images import Images
from shoal.builders.owner import Owner
from shoal.builders.pods import PodPlan, build_pod

Manifest = dict[str, Any]

MEMBER_GRACE_SECONDS = 10
"""A member stops at once: its leases are the holders' to give up, and a longer wait only delays a replacement."""


def pool_owner(name: str, namespace: str, uid: str) -> Owner:
    """The owner of a pool's children."""
    return Owner("EnvironmentPool", name, namespace, uid, POOL)


def member_selector(name: str) -> str:
    """Label selector of a pool's members."""
    return f"{ROLE}={Role.ENVIRONMENT},{POOL}={name}"


def build_broker(owner: Owner, spec: EnvironmentPoolSpec, images: Images) -> Manifest:
    """The broker's pod."""
    config = BrokerConfig(
        port=PORTS[Role.BROKER],
        pool=owner.name,
        heartbeat=seconds(spec.lease.heartbeat),
        ttl=seconds(spec.lease.ttl),
        max_episode_seconds=spec.lease.max_episode_seconds,
        answer_seconds=max(spec.lease.max_reset_seconds, spec.lease.max_step_seconds + spec.lease.max_evaluate_seconds),
        queue_limit=spec.lease.queue_limit,
    )
    return build_pod(
        owner,
        PodPlan(
            role=Role.BROKER,
            image=images.of(Role.BROKER),
            config=config,
            tokens={
                OWN_TOKEN: owner.secret,
                Role.ENVIRONMENT: owner.secret_for(Role.ENVIRONMENT),
                Role.AGENT: owner.secret_for(Role.AGENT),
            },
            name=owner.service(Role.BROKER),
            template=helper_template(spec.helpers),
        ),
        images,
    )


def build_members(
    owner: Owner, spec: EnvironmentPoolSpec, images: Images, made: Callable[[Manifest], Manifest] = lambda pod: pod
) -> dict[str, Manifest]:
    """Variant name -> member; a pool without variants has the one variant `default`.

    `made` takes a member's pod and gives the object that is created in its place; without it that is the pod.
    """
    variants = spec.variants or [Variant(name=DEFAULT_VARIANT)]
    pods = {variant.name: made(_build_member(owner, spec, variant, images)) for variant in variants}
    return {name: restricted(member, {OPENENV_CONTAINER}) for name, member in pods.items()}


OPENENV_CONTAINER = "environment"
"""Name of the container that runs the user's OpenEnv image beside the lease guard."""
OPENENV_PORT = 8000
"""Where an image that serves OpenEnv's wire protocol listens, by OpenEnv's own convention."""


def _build_member(owner: Owner, spec: EnvironmentPoolSpec, variant: Variant, images: Images) -> Manifest:
    image = variant.image or spec.environment.image
    entrypoint = variant.entrypoint or spec.environment.entrypoint
    beside = spec.environment.protocol == OPENENV and entrypoint is None
    ephemeral = spec.lifecycle.mode is LifecycleMode.EPHEMERAL
    config = EnvironmentConfig(
        port=PORTS[Role.ENVIRONMENT],
        pool=owner.name,
        variant=variant.name,
        environment=EnvironmentSource(
            protocol=spec.environment.protocol,
            entrypoint=f"http://$(POD_IP):{OPENENV_PORT}" if beside else entrypoint,
            config={**spec.environment.config, **variant.config},
        ),
        slots=spec.slots_per_member,
        lifecycle=_lifecycle(spec.lifecycle),
        broker_url=owner.url(Role.BROKER, PORTS[Role.BROKER]),
        step_timeout=spec.lease.max_step_seconds,
        reset_timeout=spec.lease.max_reset_seconds,
        evaluate_timeout=spec.lease.max_evaluate_seconds,
    )
    isolation: Manifest = (
        {"runtimeClassName": spec.isolation.runtime_class_name} if spec.isolation.runtime_class_name else {}
    )
    if beside:
        isolation["initContainers"] = [_openenv_container(image)]
    return build_pod(
        owner,
        PodPlan(
            role=Role.ENVIRONMENT,
            image=images.of(Role.ENVIRONMENT) if beside or image is None else image,
            config=config,
            tokens={OWN_TOKEN: owner.secret_for(Role.ENVIRONMENT)},
            labels={VARIANT: variant.name},
            template=spec.template,
            restart_policy="Never" if ephemeral else "Always",
            grace_seconds=MEMBER_GRACE_SECONDS,
            startup_seconds=120,
            spec=isolation,
        ),
        images,
    )


def _openenv_container(image: str | None) -> Manifest:
    """The user's OpenEnv image, as a native sidecar: it starts before the lease guard and ends after it."""
    if image is None:
        raise ValueError("environment: protocol OpenEnv needs an image or an entrypoint")
    probe = {"httpGet": {"path": "/health", "port": OPENENV_PORT}, "periodSeconds": 1, "failureThreshold": 120}
    return {"name": OPENENV_CONTAINER, "image": image, "restartPolicy": "Always", "startupProbe": probe}


def _lifecycle(lifecycle: Lifecycle) -> LifecycleConfig:
    return LifecycleConfig(
        mode="Ephemeral" if lifecycle.mode is LifecycleMode.EPHEMERAL else "Persistent",
        verify=lifecycle.reset.verify,
        reset_timeout=seconds(lifecycle.reset.timeout),
        max_episodes=lifecycle.max_episodes,
        max_age=seconds(lifecycle.max_age) if lifecycle.max_age else None,
        quarantine=lifecycle.quarantine,
    )
