"""A Containerfile as a list of instructions."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "images"


@dataclass(frozen=True)
class Instruction:
    """One instruction: its word and the rest, continuation lines joined."""

    word: str
    rest: str

    def mounts(self) -> list[dict[str, str]]:
        """The mounts of a RUN."""
        flags = [part.removeprefix("--mount=") for part in shlex.split(self.rest) if part.startswith("--mount=")]
        return [dict(pair.split("=", 1) for pair in flag.split(",")) for flag in flags]


def read(name: str) -> list[Instruction]:
    """The instructions of `images/NAME`; raises ValueError for a line that is none."""
    lines = [line for line in (FOLDER / name).read_text().splitlines() if line.strip() and not line.startswith("#")]
    found = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        match = re.fullmatch(r"(ARG|FROM|ENV|WORKDIR|RUN|USER|CMD) (.+)", line)
        if match is None:
            raise ValueError(f"{name}: {line}")
        found.append(Instruction(match[1], match[2].strip()))
    return found
