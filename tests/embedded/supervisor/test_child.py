"""One program under the supervisor: restarts, endings, and what happens when the supervisor is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from shoal_embedded.node.procfs import find_marked, identify, is_alive
from shoal_embedded.supervisor import leftovers
from shoal_embedded.supervisor.child import Child, Program


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until it is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def child(folder: Path, code: str, *, stop_seconds: float = 4.0) -> Child:
    """A shell script under supervision."""
    program = Program("script", ["/bin/sh", "-c", code], stop_seconds=stop_seconds)
    return Child(program, folder / "logs", {**os.environ, **leftovers.marks(folder)})


async def test_a_program_that_dies_is_started_again(tmp_path: Path) -> None:
    one = child(tmp_path, "exec sleep 60")
    one.start()
    first = one.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: one.pid not in (None, first))
    assert one.deaths == 1
    await one.stop()
    assert one.pid is None
    assert not leftovers.find(tmp_path)


async def test_one_that_does_not_end_is_killed(tmp_path: Path) -> None:
    one = child(tmp_path, f"trap '' TERM; touch {tmp_path}/up; while :; do sleep 0.05; done", stop_seconds=0.2)
    one.start()
    await until((tmp_path / "up").exists)
    started = time.monotonic()
    await one.stop()
    assert 0.15 < time.monotonic() - started < 3
    leftovers.sweep(tmp_path)
    assert not leftovers.find(tmp_path)


async def test_the_end_of_its_log(tmp_path: Path) -> None:
    one = child(tmp_path, "echo cannot work; exit 1")
    one.start()
    await until(lambda: one.deaths >= 2)
    await one.stop()
    assert one.last_words(1) == "cannot work"


def test_a_sweep_takes_descendants_that_hide(tmp_path: Path) -> None:
    code = "setsid env -i /bin/sleep 60 & exec sleep 60"
    process = subprocess.Popen(["/bin/sh", "-c", code], env={**os.environ, **leftovers.marks(tmp_path)})
    end = time.monotonic() + 5
    while len(leftovers.find(tmp_path)) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    found = leftovers.find(tmp_path)
    assert leftovers.sweep(tmp_path) >= 2
    process.wait()
    assert not any(is_alive(each) for each in found)


def test_a_sweep_spares_the_caller(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from shoal_embedded.supervisor import leftovers;"
        "print(leftovers.sweep(Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, **leftovers.marks(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "0"


async def test_a_killed_supervisor_takes_its_programs_along(tmp_path: Path) -> None:
    code = f"""
import asyncio, os
from pathlib import Path
from tests.embedded.supervisor.test_child import child
async def main():
    one = child(Path({str(tmp_path)!r}), "exec sleep 60")
    one.start()
    await asyncio.Event().wait()
asyncio.run(main())
"""
    supervisor = subprocess.Popen([sys.executable, "-c", code])  # noqa: ASYNC220
    await until(lambda: find_marked(leftovers.marks(tmp_path)))
    supervisor.kill()
    supervisor.wait()
    await until(lambda: not leftovers.find(tmp_path))
    assert identify(supervisor.pid) is None
