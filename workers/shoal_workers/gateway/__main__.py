"""The process of a gateway pod: `python -m shoal_workers.gateway`."""

from shoal.api.services.roles.gateway import GatewayConfig
from shoal_workers.gateway.server import build
from shoal_workers.service import launch

if __name__ == "__main__":
    launch("gateway", GatewayConfig, build)
