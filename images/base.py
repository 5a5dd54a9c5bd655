"""A base image made of Debian packages, for machines that reach no image registry."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from images.progress import BuildError, must, need, say
from images.tools import Tool

_PACKAGES = "python3,python3-venv,ca-certificates,libnuma1"
"""libnuma1 is vLLM's (its CPU build); inside a build nothing could be fetched here."""
_UNREAD = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")

# In a mount namespace of its own: killed half way, mmdebstrap leaves /proc, /sys and /dev mounted below /tmp.
_APART = ("unshare", "--mount") if os.geteuid() == 0 else ()
_COMMAND = (
    "mmdebstrap", "--variant=minbase", f"--include={_PACKAGES}",
    *(f"--dpkgopt=path-exclude={path}" for path in _UNREAD), "bookworm",
)  # fmt: skip
# The tag is that of the recipe, so that a base which was made by another one is not taken for this.
_RECIPE = hashlib.sha256(" ".join(_COMMAND).encode()).hexdigest()[:12]
NAME = f"localhost/shoal-base:bookworm-{_RECIPE}"


def exists(tool: Tool, name: str) -> bool:
    """Whether the tool has an image."""
    try:
        must(tool.inspect(name), "looking for an image", tool.environment())
    except BuildError:
        return False
    return True


def make(tool: Tool, folder: Path) -> str:
    """Make the base image unless the tool has it, and return its name.

    Args:
        tool: what builds images.
        folder: keeps the root file system, so that it is made once.
    """
    if exists(tool, NAME):
        return NAME
    place = folder / f"base-{_RECIPE}"
    place.mkdir(parents=True, exist_ok=True)
    archive = place / "rootfs.tar"
    if not archive.exists():
        need("mmdebstrap", "install it (`apt-get install mmdebstrap`), or give --base an image")
        say("making a base of Debian bookworm with mmdebstrap")
        fresh = folder / "rootfs.new.tar"
        must([*_APART, *_COMMAND, str(fresh)], "making the base")
        fresh.rename(archive)
    (place / "Containerfile").write_text("FROM scratch\nADD rootfs.tar /\n")
    say(f"importing the base as {NAME}")
    for command in tool.load(NAME, archive, place):
        must(command, "importing the base", tool.environment())
    return NAME
