"""Start-up configuration of a job's agents."""

from typing import Any, Literal

from pydantic import Field

from shoal.api.services.common import Message, RoleConfig, StrategyConfig


class HarnessConfig(Message):
    """How observations become prompts and answers become actions."""

    type: Literal["Chat", "OpenAI"] = "Chat"
    module: str | None = None
    system_prompt: str = ""
    invalid_action: Literal["Terminate", "Continue"] = "Terminate"
    config: dict[str, Any] = Field(default_factory=dict)


class PoolAccess(Message):
    """Where the leases of one environment come from; `credential` is the folder of the token."""

    name: str
    broker_url: str
    credential: str


class AgentConfig(RoleConfig):
    """Configuration of `python -m shoal_workers.agent`. Durations are seconds."""

    port: int = Field(8005, ge=0, le=65535)
    job: str = ""
    run: str = Field("", description="The run whose weights the model calls must come from.")
    model: str = Field(min_length=1, description="Folder with the tokeniser and its chat template.")
    data_url: str
    gateway_url: str
    pools: list[PoolAccess] = Field(min_length=1)
    harness: HarnessConfig = Field(default_factory=HarnessConfig)
    concurrency: int = Field(32, ge=1)
    max_turns: int = Field(32, ge=1)
    max_tokens_per_turn: int = Field(256, ge=1)
    max_model_len: int = Field(4096, ge=16)
    top_p: float = Field(1.0, gt=0, le=1)
    turn_budget: StrategyConfig = StrategyConfig(name="fixed")
