"""Kueue: jobs that wait for quota."""

from shoal.neighbours.kueue.neighbour import Kueue

__all__ = ["Kueue"]
