"""How faults in a row slow a job down before they halt it."""

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
"""Ten faults in a row then take three quarters of a minute: a service that restarts is back by then, and a job is not
halted because everything failed at once within the same second."""


def pause_after(consecutive: int) -> float:
    """Seconds for which nothing is handed out after this many faults in a row: none after one, then doubling."""
    if consecutive <= 1:
        return 0.0
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(consecutive - 1, 30))
