"""The process of a broker pod: `python -m shoal_workers.broker`."""

from shoal.api.services.roles.broker import BrokerConfig
from shoal_workers.broker.server import build
from shoal_workers.service import launch

if __name__ == "__main__":
    launch("broker", BrokerConfig, build)
