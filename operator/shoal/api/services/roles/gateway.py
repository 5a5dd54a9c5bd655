"""Start-up configuration of a fleet's gateway."""

from typing import Literal

from pydantic import Field

from shoal.api.services.common import RoleConfig
from shoal.api.services.models import InFlightPolicy


class GatewayConfig(RoleConfig):
    """Configuration of `python -m shoal_workers.gateway`. Durations are seconds."""

    port: int = Field(8002, ge=0, le=65535)
    fleet: str = ""
    served_name: str = "policy"
    model: str | None = Field(None, description="Folder with the tokeniser; None: no OpenAI routes, tokens only.")
    policy: Literal["PrefixAffinity", "LeastLoaded", "RoundRobin"] = "LeastLoaded"
    max_in_flight_per_engine: int = Field(256, ge=1)
    queue_limit: int = Field(10_000, ge=0)
    strategy: Literal["Rolling", "AllAtOnce"] = "Rolling"
    max_unavailable: int | str = Field(1, description="Engines, or a percentage of them, that may be out of service.")
    in_flight: InFlightPolicy = InFlightPolicy.KEEP_AND_CONTINUE
    drain_seconds: float = Field(30.0, ge=0)
    report_seconds: float = Field(1.0, gt=0, description="Interval at which engines report.")
    missed_reports: int = Field(5, ge=1, description="An engine that is silent for this many intervals is not routed.")
    update_timeout: float = Field(300.0, gt=0, description="Time an engine may take to load weights.")
