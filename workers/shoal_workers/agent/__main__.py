"""The process of an agent's pod: `python -m shoal_workers.agent`."""

from shoal.api.services.roles.agent import AgentConfig
from shoal_workers.agent.server import build
from shoal_workers.service import launch

if __name__ == "__main__":
    launch("agent", AgentConfig, build)
