"""What is wrong with a training run, judged from the figures of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.api.services.common import Finding

MISMATCH_STEPS = 3
"""Steps in a row: one alone may be tokens that an engine drew in the instant of an update."""
NON_FINITE_STEPS = 3
"""Steps in a row: one bad batch is passed over; when none is good any more, training on changes nothing."""


@dataclass
class Health:
    """Counts what goes wrong in a row; `non_finite` goes on where the last process of the job stopped."""

    non_finite: int = 0
    mismatched: int = 0
    _mismatch: Finding | None = None
    _halted: Finding | None = None
    _storage: Finding | None = field(default=None)

    @property
    def findings(self) -> list[Finding]:
        """What is wrong now."""
        return [each for each in (self._halted, self._storage, self._mismatch) if each is not None]

    @property
    def halted(self) -> bool:
        """Whether no further step makes sense."""
        return self._halted is not None

    def stepped(self, figures: Mapping[str, float], batch: str, saved: str, engines: Mapping[str, int]) -> None:
        """Take in a step's figures; `saved` is where its batch is kept if an update was skipped."""
        self._compare(figures, engines)
        self.non_finite = self.non_finite + 1 if figures.get("updates_skipped") else 0
        if self.non_finite >= NON_FINITE_STEPS:
            message = (
                f"the loss or its gradient was not finite in {self.non_finite} steps in a row, last in batch {batch},"
                f" which is kept in {saved}"
            )
            self._halted = Finding(reason="NonFiniteGradient", message=message, fatal=True)

    def storing(self, what: str, error: OSError | None) -> None:
        """Writing to the job's volume failed, or worked again (None)."""
        if error is None:
            self._storage = None
            return
        cause = error.strerror or str(error)
        message = f"{what} cannot be written to the job's volume: {cause}; older state is kept and it is tried again"
        self._storage = Finding(reason="StorageFailed", message=message)

    def _compare(self, figures: Mapping[str, float], engines: Mapping[str, int]) -> None:
        gap, bound = figures.get("logprob_gap", 0.0), figures.get("logprob_gap_bound", float("inf"))
        if not figures.get("logprob_checked"):
            return
        self.mismatched = self.mismatched + 1 if gap > bound else 0
        if self.mismatched < MISMATCH_STEPS:
            # What was found stays until a step shows that it is gone: training may end before the next one.
            self._mismatch = self._mismatch if self.mismatched else None
            return
        serving = ", ".join(f"{name} at version {version}" for name, version in sorted(engines.items())) or "unknown"
        version = int(figures.get("logprob_gap_version", -1))
        message = (
            f"engines and trainer disagree on log-probs by up to {gap:.2g} (bound {bound:g}), {self.mismatched} steps"
            f" in a row, most on tokens of version {version}; engines: {serving}"
        )
        self._mismatch = Finding(reason="PolicyMismatch", message=message)
