"""LeaderWorkerSet: engines over several nodes."""
