"""What the trainer says is wrong with a run, and when it says so no more."""

from __future__ import annotations

import errno

from shoal_workers.trainer.health import MISMATCH_STEPS, NON_FINITE_STEPS, Health

GAP = {"logprob_gap": 1.9, "logprob_gap_bound": 1e-3, "logprob_checked": 1.0, "logprob_gap_version": 7.0}
GOOD = {**GAP, "logprob_gap": 1e-5}


def step(health: Health, figures: dict[str, float]) -> list[str]:
    """The reasons after a step."""
    health.stepped(figures, "b7", "/job/skipped/b7.batch", {"e0": 7, "e1": 8})
    return [finding.reason for finding in health.findings]


def test_a_gap_that_lasts_is_told_with_engines_and_versions_and_goes_with_its_cause() -> None:
    health = Health()
    for _ in range(MISMATCH_STEPS - 1):
        assert step(health, GAP) == []
    assert step(health, GAP) == ["PolicyMismatch"]
    (finding,) = health.findings
    assert not finding.fatal
    for part in ("1.9", "bound 0.001", "version 7", "e0 at version 7, e1 at version 8"):
        assert part in finding.message
    # A step that compared nothing shows nothing.
    assert step(health, {**GOOD, "logprob_checked": 0.0}) == ["PolicyMismatch"]
    assert step(health, GOOD) == []
    assert step(health, GAP) == []


def test_no_bound_no_mismatch() -> None:
    health = Health()
    unbounded = {name: value for name, value in GAP.items() if name != "logprob_gap_bound"}
    assert [step(health, unbounded) for _ in range(5)] == [[]] * 5


def test_updates_skipped_in_a_row_end_the_job_with_the_batch_named() -> None:
    health = Health()
    for _ in range(NON_FINITE_STEPS - 1):
        assert step(health, {"updates_skipped": 1.0}) == []
    assert step(health, {"updates_skipped": 0.0}) == []
    for _ in range(NON_FINITE_STEPS):
        assert not health.halted
        step(health, {"updates_skipped": 1.0})
    (finding,) = health.findings
    assert (health.halted, finding.fatal, finding.reason) == (True, True, "NonFiniteGradient")
    assert "batch b7" in finding.message
    assert "/job/skipped/b7.batch" in finding.message


def test_the_count_goes_on_in_the_next_process() -> None:
    health = Health(non_finite=NON_FINITE_STEPS - 1)
    assert step(health, {"updates_skipped": 1.0}) == ["NonFiniteGradient"]


def test_a_full_volume_is_told_until_it_takes_a_write() -> None:
    health = Health()
    health.storing("a checkpoint", OSError(errno.ENOSPC, "No space left on device"))
    (finding,) = health.findings
    assert (finding.reason, finding.fatal) == ("StorageFailed", False)
    assert "a checkpoint cannot be written" in finding.message
    assert "No space left on device" in finding.message
    health.storing("a checkpoint", None)
    assert health.findings == []
