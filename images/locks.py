"""Lock files as text: entries by package, what two locks share. Pure."""

from __future__ import annotations

import re

Lock = dict[str, str]
"""Package -> its whole entry (version, hashes), without comments."""


def parse(text: str) -> Lock:
    """The entries of a lock file.

    Raises:
        ValueError: an entry has no exact version or no hash.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found: Lock = {}
    for part in re.split(r"^(?=\S)", "\n".join(lines), flags=re.MULTILINE):
        if not part:
            continue
        name = re.split(r"[^A-Za-z0-9._-]", part, maxsplit=1)[0]
        if "==" not in part or "--hash=sha256:" not in part:
            raise ValueError(f"{name}: not pinned by version and hash")
        found[name] = part.rstrip().removesuffix("\\").rstrip()
    return found


def render(lock: Lock) -> str:
    """A lock file of these entries."""
    return "".join(f"{lock[name]}\n" for name in sorted(lock))


def version(lock: Lock, name: str) -> str | None:
    """`name==version` of a package, extras included; None for one that the lock has not."""
    return lock[name].split()[0] if name in lock else None


def shared(one: Lock, other: Lock) -> Lock:
    """What stands in both, in the same version."""
    return {name: entry for name, entry in one.items() if version(one, name) == version(other, name)}


def beside(lock: Lock, present: Lock) -> Lock:
    """What a lock holds beside packages that are there already."""
    return {name: entry for name, entry in lock.items() if version(lock, name) != version(present, name)}


def with_cpu_torch(lock: Lock) -> Lock:
    """The lock with torch's CPU build named outright.

    The CPU locks' torch line allows the registry's build, made for CUDA, as well; with hashes pip would prefer that.
    """
    return {**lock, "torch": re.sub(r"==([0-9.]+)", r"==\1+cpu", lock["torch"], count=1)}
