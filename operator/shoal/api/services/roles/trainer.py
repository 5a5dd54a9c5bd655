"""Start-up configuration of a job's trainer."""

from typing import Literal

from pydantic import Field

from shoal.api.services.common import Message, RoleConfig, StrategyConfig


class AlgorithmConfig(Message):
    """The learning rule, by parts."""

    advantage: StrategyConfig = StrategyConfig(name="grpo")
    corrector: StrategyConfig = StrategyConfig(name="tis")
    loss: StrategyConfig = StrategyConfig(name="ppo-clip")
    selection: StrategyConfig = StrategyConfig(name="all")


class OptimizerConfig(Message):
    """AdamW and its schedule: a linear rise over `warmup_steps`, then a linear fall to `decay_to` times the rate."""

    learning_rate: float = Field(1e-6, gt=0)
    decay_to: float = Field(1.0, ge=0, le=1, description="Share of the learning rate that is left at the last step.")
    weight_decay: float = Field(0.0, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    warmup_steps: int = Field(0, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)


class TrainerConfig(RoleConfig):
    """Configuration of `python -m shoal_workers.trainer`."""

    port: int = Field(8006, ge=0, le=65535)
    job: str = ""
    run: str = Field("", description="The name under which the weights of this run are published.")
    folder: str = Field(
        min_length=1, description="Folder of the job on the shared volume: versions/ and checkpoints/ lie in it."
    )
    model: str = Field(min_length=1, description="Folder or hub name of the original weights (version 0).")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int = Field(4096, ge=16)
    data_url: str
    gateway_url: str
    steps: int = Field(ge=1)
    batch_groups: int = Field(ge=1)
    temperature: float = Field(1.0, gt=0, description="Temperature at which the batches' tokens were drawn.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus that they were drawn from.")
    minibatches: int = Field(1, ge=1)
    epochs: int = Field(1, ge=1)
    algorithm: AlgorithmConfig = Field(default_factory=AlgorithmConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    ray_address: str | None = Field(None, description="None: a Ray head inside the trainer's pod.")
    checkpoint_every: int = Field(1, ge=1)
    checkpoint_keep: int = Field(2, ge=1)
    versions_keep: int = Field(
        4, ge=1, description="Newest weight versions that stay on the volume; one that an engine serves stays as well."
    )
    verify_versions: int = Field(
        3, ge=0, description="Newest weight versions whose log-probs are compared with the engines'; 0: none are."
    )
    tokens_per_micro_batch: int | None = Field(
        None, ge=1, description="Tokens in one forward pass, which memory grows with. None: measured at the start."
    )
    micro_batch_rows: int | None = Field(
        None,
        ge=1,
        description="Most rows in one forward pass, then one beside the other. None: as many as fit, packed.",
    )
    activation_checkpointing: bool | None = Field(
        None,
        description="Keep only each layer's input during a forward pass, and compute the rest again backward. None:"
        " where the longest sequence would not fit otherwise.",
    )
    learner_threads: int = Field(1, ge=1, description="CPU threads of the learner.")
    object_store_megabytes: int = Field(80, ge=76, description="Object store of a Ray head of the trainer's own.")
    seed: int = 0
