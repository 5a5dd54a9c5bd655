"""The process of a data manager's pod: `python -m shoal_workers.data`."""

from shoal.api.services.roles.data import DataConfig
from shoal_workers.data.server import build
from shoal_workers.service import launch

if __name__ == "__main__":
    launch("data", DataConfig, build)
