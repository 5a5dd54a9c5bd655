"""Kubernetes' text form of a time, and seconds since the epoch."""

from datetime import UTC, datetime


def timestamp(now: float) -> str:
    """`now` (seconds since the epoch) as Kubernetes writes times."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def soonest(*waits: float | None) -> float | None:
    """The shortest of the waits, None when there is none."""
    return min((wait for wait in waits if wait is not None), default=None)


def parse_timestamp(text: str) -> float:
    """Seconds since the epoch of a Kubernetes time; raises ValueError for other text."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
