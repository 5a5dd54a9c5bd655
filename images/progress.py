"""Lines of progress, and commands that end the program with their last words."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence

STARTED = time.monotonic()


class BuildError(Exception):
    """What ends the program with one clear message."""


def say(text: str) -> None:
    """One line of progress, with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", flush=True)


def need(program: str, instead: str) -> None:
    """Fail where a program is not installed.

    Args:
        program: its name.
        instead: what the user can do.
    """
    if shutil.which(program) is None:
        raise BuildError(f"{program} is not installed: {instead}")


def must(command: Sequence[str], doing: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a command and return its output; fail with its last lines.

    Args:
        command: the words.
        doing: what failed, in the message.
        environment: variables to add.
    """
    everything = {**os.environ, **(environment or {})}
    done = subprocess.run(
        command, env=everything, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        last = "\n".join(f"    {line}" for line in done.stdout.splitlines()[-20:])
        raise BuildError(f"{doing} failed (`{' '.join(command)}` ended with {done.returncode}):\n{last}")
    return done.stdout
