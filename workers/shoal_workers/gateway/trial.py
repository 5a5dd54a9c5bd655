"""Whether weights may go to the fleet: a version is on trial until one engine serves it, and fails for good or passes.

offered -> on trial (one engine at a time) -> passed: all engines load it
                                           -> quarantined: no engine does; the last one that passed stays the aim
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from shoal.api.services.models import WeightsTarget
from shoal_workers.gateway.rollout import Key, key_of

# A shared volume may show a file late. The second look is a second later.
LOOKS = 2
# Engines that are lost while they load the same version are no accident of one engine.
LOSSES = 2

UNUSABLE = "weights-unusable"
REFUSED = "weights-refused"


@dataclass(frozen=True, slots=True)
class Trial:
    """What is known of versions: the last that passed, and of the target how often it failed, and why it is out.

    Args:
        good: the newest weights that an engine has proved to serve; None: none but the original ones.
        key: the version that the failures are of.
        failures: how often it failed, by the problem's name.
        reason: why it is quarantined; "" while it is not.
    """

    good: WeightsTarget | None = None
    key: Key | None = None
    failures: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""

    def quarantined(self, target: WeightsTarget | None) -> str:
        """Why no engine shall load these weights; "" where they may."""
        return self.reason if target is not None and key_of(target) == self.key else ""

    def aim(self, target: WeightsTarget | None) -> WeightsTarget | None:
        """The weights that engines shall have: the target, or while that is quarantined, its run's last good ones."""
        if not self.quarantined(target):
            return target
        assert target is not None
        return self.good if self.good is not None and self.good.run == target.run else None

    def most(self, target: WeightsTarget | None) -> int | None:
        """How many engines may load the aim at once; None: as many as the roll-out allows."""
        aim = self.aim(target)
        if aim is None:
            return 0
        return None if self.good is not None and key_of(self.good) == key_of(aim) else 1

    def passed(self, weights: WeightsTarget) -> Trial:
        """An engine serves these weights."""
        older = self.good is not None and self.good.run == weights.run and self.good.version > weights.version
        if older or key_of(self.good) == key_of(weights):
            return self
        return replace(self, good=weights) if self.key != key_of(weights) else Trial(good=weights)

    def failed(self, weights: WeightsTarget, problem: str, reason: str) -> Trial:
        """An engine did not take these weights."""
        key = key_of(weights)
        if self.good is not None and key == key_of(self.good):
            # Others serve them, so it is the engine, or its sight of the volume.
            return self
        before = self.failures if self.key == key else {}
        kind = problem if problem in (UNUSABLE, REFUSED) else "lost"
        failures = {**before, kind: before.get(kind, 0) + 1}
        limit = {UNUSABLE: LOOKS, REFUSED: 1}.get(kind, LOSSES)
        return replace(self, key=key, failures=failures, reason=reason if failures[kind] >= limit else "")
