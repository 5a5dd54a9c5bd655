"""Start-up configuration of a pool's broker."""

from pydantic import Field

from shoal.api.services.common import RoleConfig


class BrokerConfig(RoleConfig):
    """Configuration of `python -m shoal_workers.broker`. Durations are seconds."""

    port: int = Field(8001, ge=0, le=65535)
    pool: str = ""
    heartbeat: float = Field(10.0, gt=0, description="How often a lease's holder should renew it.")
    ttl: float = Field(30.0, gt=0, description="A lease that is not renewed for this long expires.")
    max_episode_seconds: float = Field(1800.0, gt=0)
    answer_seconds: float = Field(
        2100.0, gt=0, description="The longest that a member may take for one reset or step and its grading."
    )
    queue_limit: int = Field(10_000, ge=0)
    report_seconds: float = Field(2.0, gt=0, description="Interval at which members report.")
    missed_reports: int = Field(3, ge=1, description="A member that is silent for this many intervals is lost.")
    guard_timeout: float = Field(2.0, gt=0, description="Time one call to a member's guard may take.")
