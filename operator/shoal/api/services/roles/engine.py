"""Start-up configuration of a fleet's engine."""

from typing import Literal

from pydantic import Field

from shoal.api.services.common import RoleConfig


class EngineConfig(RoleConfig):
    """Configuration of `python -m shoal_workers.engines`. Durations are seconds."""

    port: int = Field(8003, ge=0, le=65535)
    fleet: str = ""
    type: Literal["VLLM", "Reference"] = "VLLM"
    model: str = Field(min_length=1, description="Folder or hub name of the original weights (version 0).")
    served_name: str = "policy"
    max_model_len: int = Field(4096, ge=16)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    tensor_parallel: int = Field(1, ge=1)
    nodes: int = Field(1, ge=1, description="Pods over which the layers are spread; above 1 this one is Ray's head.")
    args: list[str] = Field(default_factory=list, description="Engine arguments, as vLLM's command line takes them.")
    gateway_url: str | None = Field(None, description="None: no registration; for one stand-alone engine.")
    report_seconds: float = Field(1.0, gt=0)
    seed: int = 0
