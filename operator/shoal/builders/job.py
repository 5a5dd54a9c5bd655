"""An RLJob's objects: data manager, agents, trainer, and the pools and the fleet that it owns."""

from typing import Any

from shoal.api.labels import JOB, OWN_TOKEN, PORTS, Role
from shoal.api.services.common import StrategyConfig
from shoal.api.services.roles.agent import AgentConfig, HarnessConfig, PoolAccess
from shoal.api.services.roles.data import DataConfig, EvaluationConfig, RetentionConfig, SuccessConfig, TaskConfig
from shoal.api.services.roles.trainer import AlgorithmConfig, OptimizerConfig, TrainerConfig
from shoal.api.v1alpha1.common import API_VERSION, Strategy, seconds
from shoal.api.v1alpha1.jobdata import Evaluation, Retention
from shoal.api.v1alpha1.jobplanes import EnvironmentSource
from shoal.api.v1alpha1.jobtrainer import Algorithm, Optimizer
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.builders.children import build_resource
from shoal.builders.environment import pool_owner
from shoal.builders.fleet import fleet_owner
from shoal.builders.helpers import helper_template
from shoal.builders.images import Images
from shoal.builders.owner import Owner
from shoal.builders.pods import PodPlan, build_pod
from shoal.builders.storage import SHARED_MOUNT, model_volume, shared_volume

Manifest = dict[str, Any]

TRAINER_GRACE_SECONDS = 60
AGENT_GRACE_SECONDS = 20
"""Long enough to hand running episodes back; they are resumed elsewhere."""


def job_owner(name: str, namespace: str, uid: str) -> Owner:
    """The owner of a job's children."""
    return Owner("RLJob", name, namespace, uid, JOB)


def fleet_name(job: str, spec: RLJobSpec) -> str:
    """The fleet that the job samples from: the one it names, or the one it owns."""
    return spec.fleet.ref.name if spec.fleet.ref else f"{job}-fleet"


def pool_name(job: str, source: EnvironmentSource) -> str:
    """The pool behind one of the job's environments."""
    return source.ref.name if source.ref else f"{job}-{source.name}"


def folder(owner: Owner) -> str:
    """The job's folder on the shared volume. The UID is in it: a later job of the same name starts afresh."""
    return f"{SHARED_MOUNT}/{owner.namespace}/{run_of(owner)}"


def run_of(owner: Owner) -> str:
    """The name under which the job's weights are published: no other job's, also not of a later one of the name."""
    return f"{owner.name}-{owner.uid[:8]}"


def build_owned(owner: Owner, spec: RLJobSpec, *, resting: bool) -> list[Manifest]:
    """The pools and the fleet that the job owns; suspended while the job rests."""
    owned = []
    if spec.fleet.template is not None:
        fleet = spec.fleet.template.spec.to_json()
        fleet.setdefault("model", spec.model.to_json())
        fleet.setdefault("storage", spec.storage.to_json())
        _lend(spec, fleet)
        fleet["suspend"] = resting or fleet.get("suspend", False)
        owned.append(build_resource(owner, API_VERSION, "RolloutFleet", fleet_name(owner.name, spec), fleet))
    for source in spec.environments:
        if source.template is not None:
            pool = source.template.spec.to_json()
            _lend(spec, pool)
            pool["suspend"] = resting or pool.get("suspend", False)
            owned.append(build_resource(owner, API_VERSION, "EnvironmentPool", pool_name(owner.name, source), pool))
    return owned


def _lend(spec: RLJobSpec, owned: Manifest) -> None:
    """Give an owned pool or fleet the job's `helpers` where it has none of its own."""
    if spec.helpers is not None:
        owned.setdefault("helpers", spec.helpers.to_json())


def build_data(owner: Owner, spec: RLJobSpec, images: Images) -> Manifest:
    """The data manager's pod."""
    volumes, mounts = shared_volume(spec.storage)
    config = DataConfig(
        port=PORTS[Role.DATA],
        job=owner.name,
        folder=folder(owner),
        steps=spec.trainer.steps,
        batch_groups=spec.trainer.batch.groups,
        group_size=spec.data.group_size,
        environments=[source.name for source in spec.environments],
        tasks=TaskConfig.model_validate(spec.data.tasks.model_dump(mode="json", exclude_none=True)),
        sampler=_strategy(spec.data.sampler),
        allocator=_strategy(spec.data.allocator),
        max_staleness=spec.data.max_staleness,
        zero_variance=spec.data.zero_variance.value,
        max_consecutive_faults=spec.data.max_consecutive_faults,
        evaluation=_evaluation(spec.data.evaluation),
        success=_success(spec),
        max_turns=spec.agents.max_turns,
        temperature=float(spec.agents.sampling.temperature),
        retention=_retention(spec.data.retention),
        seed=spec.seed,
    )
    plan = PodPlan(
        role=Role.DATA,
        image=images.of(Role.DATA),
        config=config,
        tokens={OWN_TOKEN: owner.secret, Role.AGENT: owner.secret_for(Role.AGENT)},
        name=owner.service(Role.DATA),
        volumes=volumes,
        mounts=mounts,
        template=helper_template(spec.helpers, spec.data.template),
        spec=_priority(spec),
    )
    return build_pod(owner, plan, images)


def build_agent(owner: Owner, spec: RLJobSpec, images: Images) -> Manifest:
    """An agent's pod; all agents are alike."""
    model, volumes, mounts = model_volume(spec.model)
    fleet = fleet_owner(fleet_name(owner.name, spec), owner.namespace, "")
    pools = {
        source.name: pool_owner(pool_name(owner.name, source), owner.namespace, "") for source in spec.environments
    }
    access = [
        PoolAccess(name=name, broker_url=pool.url(Role.BROKER, PORTS[Role.BROKER]), credential=_credential(name))
        for name, pool in pools.items()
    ]
    harness = spec.agents.harness
    config = AgentConfig(
        port=PORTS[Role.AGENT],
        job=owner.name,
        run=run_of(owner),
        model=model,
        data_url=owner.url(Role.DATA, PORTS[Role.DATA]),
        gateway_url=fleet.url(Role.GATEWAY, PORTS[Role.GATEWAY]),
        pools=access,
        harness=HarnessConfig(
            type=harness.type.value,
            module=harness.module,
            system_prompt=harness.system_prompt,
            invalid_action=harness.invalid_action.value,
            config=harness.config,
        ),
        concurrency=spec.agents.concurrency,
        max_turns=spec.agents.max_turns,
        max_tokens_per_turn=spec.agents.sampling.max_tokens_per_turn,
        max_model_len=spec.model.max_model_len,
        top_p=float(spec.agents.sampling.top_p),
        turn_budget=_strategy(spec.agents.turn_budget),
    )
    own = owner.secret_for(Role.AGENT)
    tokens = {OWN_TOKEN: own, Role.DATA: own, Role.GATEWAY: fleet.secret_for(Role.AGENT)}
    tokens |= {_credential(name): pool.secret_for(Role.AGENT) for name, pool in pools.items()}
    plan = PodPlan(
        role=Role.AGENT,
        image=images.of(Role.AGENT),
        config=config,
        tokens=tokens,
        volumes=volumes,
        mounts=mounts,
        template=spec.agents.template,
        grace_seconds=AGENT_GRACE_SECONDS,
        spec=_priority(spec),
    )
    return build_pod(owner, plan, images)


def build_trainer(owner: Owner, spec: RLJobSpec, images: Images, ray_address: str = "") -> Manifest:
    """The trainer's pod: it holds the driver, and the Ray head unless the job names a cluster.

    `ray_address` is that of the RayCluster that the job names or owns.
    """
    model, model_volumes, model_mounts = model_volume(spec.model)
    volumes, mounts = shared_volume(spec.storage)
    fleet = fleet_owner(fleet_name(owner.name, spec), owner.namespace, "")
    config = TrainerConfig(
        port=PORTS[Role.TRAINER],
        job=owner.name,
        run=run_of(owner),
        folder=folder(owner),
        model=model,
        dtype=spec.model.dtype.value,
        max_model_len=spec.model.max_model_len,
        data_url=owner.url(Role.DATA, PORTS[Role.DATA]),
        gateway_url=fleet.url(Role.GATEWAY, PORTS[Role.GATEWAY]),
        steps=spec.trainer.steps,
        batch_groups=spec.trainer.batch.groups,
        temperature=float(spec.agents.sampling.temperature),
        top_p=float(spec.agents.sampling.top_p),
        tokens_per_micro_batch=spec.trainer.batch.tokens_per_micro_batch,
        minibatches=spec.trainer.batch.minibatches,
        epochs=spec.trainer.batch.epochs,
        algorithm=_algorithm(spec.trainer.algorithm),
        optimizer=_optimizer(spec.trainer.optimizer),
        ray_address=ray_address or spec.trainer.ray.existing_cluster,
        checkpoint_every=spec.trainer.checkpoint.every,
        checkpoint_keep=spec.trainer.checkpoint.keep,
        seed=spec.seed,
    )
    plan = PodPlan(
        role=Role.TRAINER,
        image=images.of(Role.TRAINER),
        config=config,
        tokens={OWN_TOKEN: owner.secret, Role.DATA: owner.secret, Role.GATEWAY: fleet.secret},
        name=owner.service(Role.TRAINER),
        volumes=[*volumes, *model_volumes],
        mounts=[*mounts, *model_mounts],
        template=spec.trainer.template,
        restart_policy="OnFailure",
        grace_seconds=TRAINER_GRACE_SECONDS,
        startup_seconds=300,
        spec=_priority(spec),
    )
    return build_pod(owner, plan, images)


def _credential(environment: str) -> str:
    return f"pool-{environment}"


def _priority(spec: RLJobSpec) -> Manifest:
    return {"priorityClassName": spec.priority_class_name} if spec.priority_class_name else {}


def _evaluation(evaluation: Evaluation | None) -> EvaluationConfig | None:
    if evaluation is None:
        return None
    return EvaluationConfig(
        episodes=evaluation.episodes,
        seeds_start=evaluation.seeds_start,
        temperature=float(evaluation.temperature),
        every=evaluation.every,
        success_threshold=float(evaluation.success_threshold) if evaluation.success_threshold is not None else None,
        optimum=float(evaluation.optimum) if evaluation.optimum is not None else None,
    )


def _strategy(strategy: Strategy) -> StrategyConfig:
    return StrategyConfig(name=strategy.name, parameters=strategy.parameters)


def _retention(retention: Retention) -> RetentionConfig:
    return RetentionConfig(
        bytes=retention.max_gigabytes * 2**30,
        seconds=seconds(retention.max_age) if retention.max_age is not None else None,
        versions=retention.max_versions,
    )


def _success(spec: RLJobSpec) -> SuccessConfig | None:
    policy = spec.success_policy
    return SuccessConfig(reward=float(policy.reward), window=policy.window) if policy else None


def _algorithm(algorithm: Algorithm) -> AlgorithmConfig:
    return AlgorithmConfig(
        **{
            part: _strategy(strategy)
            for part, strategy in (
                ("advantage", algorithm.advantage),
                ("corrector", algorithm.corrector),
                ("loss", algorithm.loss),
                ("selection", algorithm.selection),
            )
        }
    )


def _optimizer(optimizer: Optimizer) -> OptimizerConfig:
    return OptimizerConfig(
        learning_rate=float(optimizer.learning_rate),
        decay_to=float(optimizer.decay_to),
        weight_decay=float(optimizer.weight_decay),
        grad_clip=float(optimizer.grad_clip),
        warmup_steps=optimizer.warmup_steps,
        beta1=float(optimizer.beta1),
        beta2=float(optimizer.beta2),
    )
