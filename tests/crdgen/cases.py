"""One accepted and one rejected object for every CEL rule, and for the other things that a schema refuses."""

from dataclasses import dataclass
from typing import Any

from shoal.api.strategies import names
from tests.api.samples import Json, changed


@dataclass(frozen=True)
class Case:
    """A change of the smallest valid object, and the words of the refusal ("" when it is accepted)."""

    kind: str
    path: str
    value: Any
    refusal: str = ""

    @property
    def body(self) -> Json:
        return changed(self.kind, self.path, self.value)


PROTOCOLS = [
    Case("EnvironmentPool", "spec.environment", {"protocol": "TextArena", "entrypoint": "Wordle-v0"}),
    Case(
        "EnvironmentPool",
        "spec.environment",
        {"protocol": "TextArena"},
        "entrypoint is required unless protocol is OpenEnv",
    ),
    Case("EnvironmentPool", "spec.environment", {"protocol": "OpenEnv", "image": "example/echo"}),
    Case("EnvironmentPool", "spec.environment", {"protocol": "OpenEnv"}, "protocol OpenEnv needs an image"),
]
SCALES = [
    Case("EnvironmentPool", "spec.scale", {"min": 2, "max": 2}),
    Case("EnvironmentPool", "spec.scale", {"min": 3, "max": 2}, "min must not be above max"),
    Case("RolloutFleet", "spec.workerGroups", [{"name": "a", "replicas": {"min": 0, "max": 0}}]),
    Case(
        "RolloutFleet",
        "spec.workerGroups",
        [{"name": "a", "replicas": {"min": 2, "max": 1}}],
        "min must not be above max",
    ),
]
CHOICES = [
    Case("RLJob", "spec.storage", {"persistentVolumeClaim": {"claimName": "data"}}),
    Case("RLJob", "spec.storage", {}, "exactly one of hostPath and persistentVolumeClaim must be set"),
    Case("RLJob", "spec.fleet", {"template": {"spec": {}}}),
    Case("RLJob", "spec.fleet", {}, "exactly one of ref and template must be set"),
    Case(
        "RLJob",
        "spec.environments.0.template",
        {"spec": {"environment": {"protocol": "Gymnasium", "entrypoint": "FrozenLake-v1"}}},
        "exactly one of ref and template must be set",
    ),
    Case("RLJob", "spec.data", {"tasks": {"inline": [{"question": "1 + 1"}]}}),
    Case(
        "RLJob",
        "spec.data",
        {"tasks": {"inline": [{}], "seeds": {}}},
        "exactly one of seeds, inline and file must be set",
    ),
    Case("RLJob", "spec.agents", {"harness": {"type": "OpenAI", "module": "mine.agents:solve"}}),
    Case("RLJob", "spec.agents", {"harness": {"type": "OpenAI"}}, "harness OpenAI needs module"),
    Case("RLJob", "spec.trainer.ray", {}),
    Case("RLJob", "spec.trainer.ray", {"existingCluster": "ray://head:10001"}),
    Case("RLJob", "spec.trainer.ray", {"clusterRef": {"name": "team"}}),
    Case("RLJob", "spec.trainer.ray", {"cluster": {"template": {"spec": {"headGroupSpec": {"any": "thing"}}}}}),
    Case("RLJob", "spec.trainer.ray", {"cluster": {}}, "spec.trainer.ray.cluster.template: Required value"),
    Case(
        "RLJob",
        "spec.trainer.ray",
        {"existingCluster": "head:6379", "clusterRef": {"name": "team"}},
        "at most one of existingCluster, clusterRef and cluster may be set",
    ),
    Case(
        "RLJob",
        "spec.trainer.ray",
        {"clusterRef": {"name": "team"}, "cluster": {"template": {}}},
        "at most one of existingCluster, clusterRef and cluster may be set",
    ),
]
NAMES = [
    Case("RLJob", "metadata.name", "a" * 30),
    Case("RLJob", "metadata.name", "lake-2"),
    Case("RLJob", "metadata.name", "2-lakes", "the name must begin with a letter"),
    Case("EnvironmentPool", "metadata.name", "a.b", "the name must begin with a letter"),
    Case("RolloutFleet", "metadata.name", "1", "the name must begin with a letter"),
    Case("RLJob", "metadata.name", "a" * 31, "the name must not be longer than 30 characters"),
    Case("EnvironmentPool", "metadata.name", "a" * 47),
    Case("EnvironmentPool", "metadata.name", "a" * 48, "the name must not be longer than 47 characters"),
    Case("RolloutFleet", "metadata.name", "a" * 47),
    Case("RolloutFleet", "metadata.name", "a" * 48, "the name must not be longer than 47 characters"),
]
FIELDS = [
    Case("RLJob", "spec.trainer.step", 5, ".spec.trainer.step: field not declared in schema"),
    Case("RLJob", "spec.trainer.steps", "ten", "spec.trainer.steps"),
    Case("RLJob", "spec.trainer.steps", 0, "spec.trainer.steps"),
    Case("RLJob", "spec.trainer", None, "spec.trainer"),
    Case("RLJob", "spec.model.source", "/models/tiny", "spec.model.source"),
    Case("RLJob", "spec.model.source", "hf:Qwen/Qwen3-0.6B"),
    Case("RLJob", "spec.trainer.optimizer", {"learningRate": "fast"}, "spec.trainer.optimizer.learningRate"),
    Case("EnvironmentPool", "spec.lease", {"ttl": "30"}, "spec.lease.ttl"),
    Case("EnvironmentPool", "spec.lease", {"ttl": "1m30s"}),
    Case("EnvironmentPool", "spec.lease", {"ttl": "0.5s", "heartbeat": "0h100ms"}),
    Case("EnvironmentPool", "spec.lease", {"heartbeat": "0s"}, "spec.lease.heartbeat"),
    Case("EnvironmentPool", "spec.lifecycle", {"maxAge": "0h0.0s"}, "spec.lifecycle.maxAge"),
    Case("EnvironmentPool", "spec.scale", {"scaleDownDelay": "0s"}),
    Case("EnvironmentPool", "spec.environment.protocol", "Gym", "spec.environment.protocol"),
    Case("EnvironmentPool", "spec.variants", [{"name": "a"}, {"name": "a"}], ".spec.variants: duplicate entries"),
    Case("EnvironmentPool", "spec.scale", {"buffer": "10%"}),
    Case("EnvironmentPool", "spec.scale", {"buffer": "a few"}, "spec.scale.buffer"),
    Case("EnvironmentPool", "spec.backend", "AgentSandbox"),
    Case("EnvironmentPool", "spec.backend", "Sandbox", "spec.backend"),
    Case("RolloutFleet", "spec.weights", {"maxUnavailable": "50%"}),
    Case("RolloutFleet", "spec.weights", {"maxUnavailable": -1}, "spec.weights.maxUnavailable"),
    Case("RolloutFleet", "spec.engine", {"type": "SGLang"}, "spec.engine.type"),
]
SAMPLING = [
    Case("RLJob", "spec.agents", {"sampling": {"temperature": "0.01", "topP": "0.001"}}),
    Case("RLJob", "spec.agents", {"sampling": {"temperature": "2", "topP": "1"}}),
    *(
        Case("RLJob", "spec.agents", {"sampling": {"temperature": value}}, refusal)
        for value, refusal in (
            ("0", "temperature must be at least 0.01 and at most 2 in training"),
            ("0.009", "spec.agents.sampling.temperature: Invalid value"),
            ("2.1", "spec.agents.sampling.temperature: Invalid value"),
            ("0.00", "spec.agents.sampling.temperature: Invalid value"),
            ("-1", "spec.agents.sampling.temperature: Invalid value"),
        )
    ),
    *(
        Case("RLJob", "spec.agents", {"sampling": {"topP": value}}, refusal)
        for value, refusal in (
            ("0", "topP must be above 0 and at most 1"),
            ("1.01", "spec.agents.sampling.topP: Invalid value"),
            ("-0.5", "spec.agents.sampling.topP: Invalid value"),
        )
    ),
    Case("RLJob", "spec.data", {"tasks": {"seeds": {}}, "evaluation": {"temperature": "0"}}),
    Case(
        "RLJob",
        "spec.data",
        {"tasks": {"seeds": {}}, "evaluation": {"temperature": "0.001"}},
        "temperature must be 0, or at least 0.01 and at most 2",
    ),
    Case(
        "RLJob",
        "spec.data",
        {"tasks": {"seeds": {}}, "evaluation": {"temperature": "-1"}},
        "spec.data.evaluation.temperature: Invalid value",
    ),
]
NODES = [
    Case("RolloutFleet", "spec.workerGroups", [{"name": "a", "nodes": 2}]),
    Case("RolloutFleet", "spec.workerGroups", [{"name": "a", "nodes": 0}], "spec.workerGroups[0].nodes"),
    Case("RolloutFleet", "spec.engine", {"type": "Reference"}),
]
SEVERAL_NODES = [
    Case(
        "RolloutFleet",
        "spec",
        {
            "model": {"source": "file:/models/tiny"},
            "engine": {"type": engine},
            "workerGroups": [{"name": "a", "nodes": 2}],
        },
        refusal,
    )
    for engine, refusal in (("VLLM", ""), ("Reference", "nodes above 1 needs engine type VLLM"))
]
STRATEGY_FIELDS = [
    ("spec.data.sampler", "shoal.data.sampler"),
    ("spec.data.allocator", "shoal.data.allocator"),
    ("spec.agents.turnBudget", "shoal.agent.turnbudget"),
    *(
        (f"spec.trainer.algorithm.{part}", f"shoal.trainer.{part}")
        for part in ("advantage", "corrector", "loss", "selection")
    ),
]
"""Where a strategy is named, and the group of those there are."""

STRATEGIES = [
    case
    for path, group in STRATEGY_FIELDS
    for case in (
        Case("RLJob", path, {"name": names(group)[0]}),
        Case("RLJob", path, {"name": "acme.rules:Mine", "parameters": {"any": [1]}}),
        Case("RLJob", path, {"name": "grpoo"}, f"must be one of {', '.join(names(group))}, or your own"),
    )
]

CASES = [*NODES, *SEVERAL_NODES, *PROTOCOLS, *SCALES, *CHOICES, *NAMES, *FIELDS, *SAMPLING, *STRATEGIES]


@dataclass(frozen=True)
class Change:
    """An update of the smallest valid object that a transition rule refuses, and one beside it that is allowed."""

    kind: str
    path: str
    value: Any
    refusal: str
    allowed_path: str
    allowed_value: Any


CHANGES = [
    Change("RLJob", "spec.model.source", "file:/models/other", "model is immutable", "spec.suspend", True),
    Change("RLJob", "spec.storage.hostPath.path", "/other", "storage is immutable", "spec.trainer.steps", 20),
    Change("RLJob", "spec.managedBy", "kueue.x-k8s.io/multikueue", "managedBy is immutable", "spec.seed", 1),
]
