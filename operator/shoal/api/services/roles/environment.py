"""Start-up configuration of a pool's member."""

from typing import Any, Literal

from pydantic import Field

from shoal.api.services.common import Message, RoleConfig
from shoal.api.services.leases import DEFAULT_VARIANT


class EnvironmentSource(Message):
    """Which environment is hosted: adapter by protocol name, entry point and the adapter's own configuration."""

    protocol: str = Field(min_length=1, description="OpenEnv, Gymnasium, TextArena, or a registered adapter's name.")
    entrypoint: str | None = Field(None, description="Environment id, URL (OpenEnv) or module:factory.")
    config: dict[str, Any] = Field(default_factory=dict)


class LifecycleConfig(Message):
    """When a slot is used again. Durations are seconds."""

    mode: Literal["Persistent", "Ephemeral"] = "Persistent"
    verify: bool = True
    reset_timeout: float = Field(60.0, gt=0)
    max_episodes: int | None = Field(None, ge=1, description="Episodes after which a slot retires.")
    max_age: float | None = Field(None, gt=0, description="Age after which a slot retires.")
    quarantine: int = Field(1, ge=1, description="Faults of one slot after which it is quarantined.")


class EnvironmentConfig(RoleConfig):
    """Configuration of `python -m shoal_workers.environment`."""

    port: int = Field(8000, ge=0, le=65535)
    pool: str = ""
    variant: str = DEFAULT_VARIANT
    environment: EnvironmentSource
    slots: int = Field(1, ge=1, le=1024)
    lifecycle: LifecycleConfig = Field(default_factory=LifecycleConfig)
    broker_url: str | None = Field(None, description="None: no registration; for one stand-alone server.")
    report_seconds: float = Field(2.0, gt=0, description="Interval of the reports to the broker.")
    step_timeout: float = Field(300.0, gt=0, description="Seconds after which a step counts as hung.")
    reset_timeout: float = Field(300.0, gt=0, description="Seconds after which an episode's reset counts as hung.")
    evaluate_timeout: float = Field(1800.0, gt=0, description="Seconds after which a grader counts as hung.")
    drain_seconds: float = Field(5.0, ge=0, description="How long a stopping member waits for its leases to end.")
    open: bool = Field(False, description="Also serve OpenEnv's routes at the root, without leases.")
