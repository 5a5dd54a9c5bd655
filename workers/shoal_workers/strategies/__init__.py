"""Named strategies of every role: one base, one registry, one way to add one's own."""

from shoal_workers.strategies.registry import NamedStrategy, Registry

__all__ = ["NamedStrategy", "Registry"]
