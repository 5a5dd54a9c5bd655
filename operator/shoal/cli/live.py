"""What a terminal shows of a run: a screen that fits, whatever the resources say. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from shoal.cli import table
from shoal.cli.cluster import Snapshot
from shoal.cli.table import Json, Row

BARS = "▁▂▃▄▅▆▇█"
WAITING_LINES = 3
"""Lines of one resource's message; what is longer is in `kubectl describe`."""


class History:
    """The reward of each step of each job, as far as it was seen."""

    def __init__(self) -> None:
        self._rewards: dict[str, dict[int, float]] = {}

    def see(self, snapshot: Snapshot) -> None:
        """Take what a snapshot tells."""
        for body in snapshot.jobs:
            status = body.get("status", {})
            reward = status.get("reward", {}).get("window")
            if reward is not None:
                self._rewards.setdefault(body["metadata"]["name"], {})[int(status.get("step", 0))] = float(reward)

    def rewards(self, job: str) -> list[float]:
        """Rewards in the order of the steps."""
        return [reward for _, reward in sorted(self._rewards.get(job, {}).items())]


def curve(values: Sequence[float], width: int) -> str:
    """The values as a line of bars from the least to the greatest, the last ones where there are more than `width`."""
    shown = values[-width:]
    least, span = min(shown), max(shown) - min(shown)
    return "".join(BARS[round((value - least) / span * (len(BARS) - 1))] if span else BARS[0] for value in shown)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as a clock shows them."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def screen(snapshot: Snapshot, history: History, elapsed: float, width: int, height: int) -> str:
    """The whole view, in at most `height` lines of at most `width` characters."""
    lines = [f"{duration(elapsed)} since the start"]
    for body in snapshot.jobs:
        lines += _job(body, history, width)
    tables = (
        (table.POOL_HEAD, [table.pool_row(body) for body in snapshot.pools]),
        (table.FLEET_HEAD, [table.fleet_row(body) for body in snapshot.fleets]),
    )
    for head, rows in tables:
        if rows:
            lines += ["", *table.render(head[:-1], [row[:-1] for row in rows]).splitlines(), *_messages(rows, width)]
    shown = [line if len(line) <= width else line[: width - 1] + "…" for line in lines]
    return "\n".join(shown if len(shown) <= height else [*shown[: height - 1], "…"])


def _job(body: Json, history: History, width: int) -> Iterable[str]:
    name, phase, step, version, reward, success, trained, stale, faults, message = table.job_row(body)
    yield ""
    yield f"{name}  {phase}  step {step}  version {version}"
    yield f"  reward {reward}  success {success}  trained {trained}  staleness {stale}  faults {faults}"
    rewards = history.rewards(name)
    if len(rewards) > 1:
        ends = f"  {min(rewards):.2f} "
        yield f"{ends}{curve(rewards, max(8, width - 2 * len(ends)))} {max(rewards):.2f}"
    yield from _wrapped(message, width)


def _messages(rows: list[Row], width: int) -> Iterable[str]:
    for row in rows:
        yield from _wrapped(f"{row[0]}: {row[-1]}" if row[-1] else "", width)


def _wrapped(message: str, width: int) -> list[str]:
    return [f"  {line}" for line in textwrap.wrap(message, width - 2, max_lines=WAITING_LINES, placeholder=" …")]
