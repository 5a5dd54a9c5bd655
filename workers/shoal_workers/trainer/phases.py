"""What the trainer is doing, and for how long it did each thing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from shoal.api.services.training import TrainerPhase


class Phases:
    """The phase that was entered last, and the seconds spent in each; `clock` gives seconds.

    Only time inside a `spending` block is a phase's own. What lies between two blocks (a start, a return to the
    checkpoint) is nobody's, though `current` still shows the phase before.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._spent: dict[TrainerPhase, float] = {}
        self._since: float | None = None
        self.current = TrainerPhase.STARTING

    def seconds(self, phase: TrainerPhase) -> float:
        """Seconds spent in the phase, those of a block that runs now among them."""
        running = self._clock() - self._since if self._since is not None and self.current is phase else 0.0
        return self._spent.get(phase, 0.0) + running

    @contextlib.contextmanager
    def spending(self, phase: TrainerPhase) -> Iterator[None]:
        """The block's time is this phase's; blocks do not nest."""
        self.current, self._since = phase, self._clock()
        try:
            yield
        finally:
            self._spent[phase] = self.seconds(phase)
            self._since = None
