"""Live progress: a screen that is redrawn on a terminal, a line per change anywhere else."""

import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Self, TypeVar

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from shoal.cli.cluster import Snapshot
from shoal.cli.live import History, screen
from shoal.cli.table import fleet_row, job_row, pool_row
from shoal.kube.errors import ApiError

T = TypeVar("T")

LINE_WIDTH = 160
"""Of a line without a terminal: logs of CI systems and pagers cut longer ones."""


class Progress:
    """Shows snapshots as they come; use as a context manager."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._history = History()
        self._said: dict[str, str] = {}
        self._away = ""

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Draw a snapshot; without a terminal, only what has changed."""
        elapsed = time.monotonic() - self._started
        if self._live is not None:
            self._history.see(snapshot)
            # The last line is the cursor's.
            text = screen(snapshot, self._history, elapsed, self._console.width, self._console.height - 1)
            self._live.update(Text(text, no_wrap=True), refresh=True)
            return
        for subject, line in lines(snapshot):
            if self._said.get(subject) != line:
                self._said[subject] = line
                click.echo(stamped(elapsed, line))

    async def patiently(self, read: Callable[[], Awaitable[T]]) -> T | None:
        """What `read` returns, or None while the API server is away."""
        try:
            return await read()
        except ApiError as error:
            if str(error) != self._away and self._live is None:
                click.echo(stamped(time.monotonic() - self._started, f"waiting for the API server: {error}"))
            self._away = str(error)
            return None


def lines(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """What is said of each resource, by the resource."""
    for name, phase, step, version, reward, success, trained, stale, _, message in map(job_row, snapshot.jobs):
        figures = f"reward {reward} success {success} trained {trained} staleness {stale}"
        yield f"job {name}", f"{name} {phase} step {step} version {version} {figures}" + _reason(message)
    for row in map(pool_row, snapshot.pools):
        yield f"pool {row[0]}", f"{row[0]} {row[1]} ready" + _reason(row[-1])
    for row in map(fleet_row, snapshot.fleets):
        yield f"fleet {row[0]}", f"{row[0]} {row[1]} ready at version {row[3]}" + _reason(row[-1])


def _reason(message: str) -> str:
    return f" ({message})" if message else ""


def stamped(elapsed: float, line: str) -> str:
    """The line with its time, in lines of at most `LINE_WIDTH` characters."""
    head = f"{elapsed:6.0f} s  "
    return "\n".join(textwrap.wrap(line, LINE_WIDTH, initial_indent=head, subsequent_indent=" " * len(head)))
