"""agent-sandbox: members from Sandboxes."""

from shoal.neighbours.sandbox.neighbour import AgentSandbox

__all__ = ["AgentSandbox"]
