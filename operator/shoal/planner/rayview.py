"""The Ray cluster that a job's trainer joins, as plans see it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RayView:
    """What a pass sees of the cluster that the trainer joins; without one the trainer has a head of its own.

    Args:
        needed: whether the job trains on a cluster of KubeRay's.
        address: where the trainer's driver connects, "" while that is not known: no trainer then.
        ready: whether the head serves; a trainer that is there is not taken away for a moment of unreadiness.
        reason, message: why there is no trainer yet.
        token_secret: the Secret with the token that the driver shows, "" for none.
        known: whether anything is known; a trainer that runs is left as it is while nothing is.
    """

    needed: bool = False
    address: str = ""
    ready: bool = True
    reason: str = ""
    message: str = ""
    token_secret: str = ""
    known: bool = True

    def allows(self, *, running: bool) -> bool:
        """Whether a trainer may be there: one that runs stays while its cluster has an address, or cannot be seen."""
        if not self.needed:
            return True
        return running if not self.known else bool(self.address) and (self.ready or running)


NO_CLUSTER = RayView()
