"""Live progress: a table that is redrawn on a terminal, a line per change anywhere else."""

import time
from collections.abc import Awaitable, Callable
from typing import Self, TypeVar

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from shoal.cli.cluster import Snapshot
from shoal.cli.status import show
from shoal.cli.table import fleet_row, job_row, pool_row
from shoal.kube.errors import ApiError

T = TypeVar("T")


class Progress:
    """Shows snapshots as they come; use as a context manager."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._last = ""

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Draw a snapshot; without a terminal, only when something a person cares for has changed."""
        if self._live is not None:
            self._live.update(Text(show(snapshot), no_wrap=True), refresh=True)
            return
        line = _line(snapshot)
        if line != self._last:
            self._last = line
            click.echo(f"{time.monotonic() - self._started:6.0f} s  {line}")

    async def patiently(self, read: Callable[[], Awaitable[T]]) -> T | None:
        """What `read` returns, or None while the API server is away."""
        try:
            return await read()
        except ApiError as error:
            if str(error) != self._last and self._live is None:
                click.echo(f"waiting for the API server: {error}")
            self._last = str(error)
            return None


def _line(snapshot: Snapshot) -> str:
    jobs = (
        f"{name} {phase} step {step} version {version} reward {reward} success {success} "
        f"trained {trained} staleness {stale}" + (f" ({message})" if message else "")
        for name, phase, step, version, reward, success, trained, stale, _, message in map(job_row, snapshot.jobs)
    )
    pools = (f"{row[0]} {row[1]} ready {row[3]} leased" for row in map(pool_row, snapshot.pools))
    fleets = (f"{row[0]} {row[1]} ready at {row[2]}" for row in map(fleet_row, snapshot.fleets))
    return " | ".join((*jobs, *pools, *fleets))
