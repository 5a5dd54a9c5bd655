"""Options that several commands share, and where `up` and `run` keep their state."""

import os
import tempfile
from pathlib import Path
from typing import Any

import click

from shoal.cli.errors import UserError

CREDENTIALS_HELP = "$KUBECONFIG, then the pod's service account, then ~/.kube/config"
kubeconfig_option = click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"Default: the control plane that `shoal up` started, then {CREDENTIALS_HELP}.",
)
namespace_option = click.option("-n", "--namespace", default="default", show_default=True)


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that pods find at /var/lib/shoal. Default: $SHOAL_DATA_DIR or ~/.local/share/shoal.",
)


class _Duration(click.ParamType[float]):
    """Seconds, written as in manifests."""

    name = "duration"

    def __init__(self, least: float = 0.0) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds of `30s`, `10m` or `1h30m`."""
        from shoal.api.v1alpha1.common import seconds

        try:
            found = seconds(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if found < self._least:
            self.fail(f"{value}: must be {self._least:g} s at least", param, ctx)
        return found


DURATION = _Duration()
MINUTES = _Duration(60.0)


class _Listen(click.ParamType[str]):
    """An address to listen on; "" for none."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text itself."""
        _, colon, port = str(value).rpartition(":")
        if value and not (colon and port.isdigit() and int(port) < 65536):
            self.fail(f"{value!r}: expected HOST:PORT, such as 0.0.0.0:8080 or [::]:8080", param, ctx)
        return str(value)


LISTEN = _Listen()


def default_state_dir() -> Path:
    """$SHOAL_STATE_DIR, or ~/.local/state/shoal (by XDG's rules)."""
    named = os.environ.get("SHOAL_STATE_DIR")
    if named:
        return Path(named)
    home = os.environ.get("XDG_STATE_HOME")
    return Path(home) / "shoal" if home else Path.home() / ".local" / "state" / "shoal"


def default_data_dir() -> Path:
    """$SHOAL_DATA_DIR, or ~/.local/share/shoal (by XDG); where home is read-only, a folder of this user in /tmp."""
    named = os.environ.get("SHOAL_DATA_DIR")
    if named:
        return Path(named)
    home = os.environ.get("XDG_DATA_HOME")
    usual = Path(home) / "shoal" if home else Path.home() / ".local" / "share" / "shoal"
    if is_writable(usual):
        return usual
    own = Path(tempfile.gettempdir(), f"shoal-{os.getuid()}")
    if own.exists() and (own.is_symlink() or own.stat().st_uid != os.getuid()):
        raise UserError(f"{own} belongs to somebody else and {usual} cannot be made: name a folder with --data-dir")
    return own


def is_writable(folder: Path) -> bool:
    """Whether files can be made in the folder, which need not be there yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def writable_folder(path: Path, option: str, mode: int = 0o700) -> Path:
    """The folder, made when it is not there. Raises `UserError` with the option where no file can be made in it."""
    try:
        path.mkdir(mode, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{option} {path}: {error.strerror}; name a folder that you can write to") from error
    return path


def resolve_kubeconfig(given: Path | None) -> Path | None:
    """The kubeconfig to use: the one given, or that of the control plane that `shoal up` keeps running."""
    if given is not None:
        return given
    local = default_state_dir() / "kubeconfig"
    return local if local.exists() else None
