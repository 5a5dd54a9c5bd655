"""The process of a member pod: `python -m shoal_workers.environment`."""

from shoal.api.services.roles.environment import EnvironmentConfig
from shoal_workers.environment.server import build
from shoal_workers.service import launch

if __name__ == "__main__":
    launch("environment", EnvironmentConfig, build)
