"""Options that several commands share, and where `up` and `run` keep their state."""

import os
from pathlib import Path

import click

kubeconfig_option = click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Default: the control plane that `shoal up` started, then $KUBECONFIG, then in-cluster.",
)
namespace_option = click.option("-n", "--namespace", default="default", show_default=True)


def default_state_dir() -> Path:
    """$SHOAL_STATE_DIR, or ~/.local/state/shoal (by XDG's rules)."""
    named = os.environ.get("SHOAL_STATE_DIR")
    if named:
        return Path(named)
    home = os.environ.get("XDG_STATE_HOME")
    return Path(home) / "shoal" if home else Path.home() / ".local" / "state" / "shoal"


def resolve_kubeconfig(given: Path | None) -> Path | None:
    """The kubeconfig to use: the one given, or that of the control plane that `shoal up` keeps running."""
    if given is not None:
        return given
    local = default_state_dir() / "kubeconfig"
    return local if local.exists() else None
