"""LeaderWorkerSet: engines over several nodes."""

from shoal.neighbours.lws.neighbour import LeaderWorkerSets

__all__ = ["LeaderWorkerSets"]
