"""A plane's folder for what its programs write in passing: temporary files, sockets, caches without a home."""

from __future__ import annotations

import getpass
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

SHORT = 12
"""Characters of the longest parent. Ray's sockets lie 80 characters below it, and a socket's path has 107 at most."""
PREFIX = "shoal-"
RECORD = "scratch"
"""File of the state folder that names the folder, so that a plane that was killed leaves none for long."""


def make(state_dir: Path) -> Path:
    """Make the folder of the plane in `state_dir`, and remove the one that an earlier plane there left."""
    remove(state_dir)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_parent()))
    (state_dir / RECORD).write_text(str(folder))
    return folder


def remove(state_dir: Path) -> None:
    """Remove the folder that this state folder names, if it is one that `make` made."""
    record = state_dir / RECORD
    try:
        folder = Path(record.read_text())
    except OSError:
        return
    if folder.name.startswith(PREFIX) and folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
    record.unlink(missing_ok=True)


def variables(folder: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What programs are told of it: it is for temporary files, and their home where the user's cannot be written."""
    found = {"TMPDIR": str(folder)}
    home = Path(environ.get("HOME") or "/")
    if not is_writable(home):
        found["HOME"] = str(folder)
        models = home / ".cache" / "huggingface"
        if "HF_HOME" not in environ and models.is_dir():
            found["HF_HOME"] = str(models)
    for name, default in (("XDG_CACHE_HOME", ".cache"), ("XDG_CONFIG_HOME", ".config")):
        if name in environ and not is_writable(Path(environ[name])):
            found[name] = str(folder / default)
    try:
        getpass.getuser()
    except (KeyError, OSError):
        # A user without an entry in the system's list: kopf and torch ask for a name.
        found["USER"] = f"user-{os.getuid()}"
    return found


def is_writable(folder: Path) -> bool:
    """Whether files can be made in the folder, which need not be there yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _parent() -> Path:
    usual = Path(tempfile.gettempdir())
    return usual if len(str(usual)) <= SHORT or not is_writable(Path("/tmp")) else Path("/tmp")
