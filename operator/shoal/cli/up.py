"""`shoal up`: a control plane in the background."""

import asyncio
import shlex
from pathlib import Path

import click

from shoal.cli.embedded import embedded_installed
from shoal.cli.errors import UserError
from shoal.cli.options import data_dir_option, default_data_dir, default_state_dir, writable_folder


@click.command()
@click.option(
    "--control-plane",
    type=click.Choice(["embedded", "kube-apiserver"]),
    default="embedded",
    show_default=True,
    help="kube-apiserver: the real one, from the folder that KUBEBUILDER_ASSETS names.",
)
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Default: $SHOAL_STATE_DIR or ~/.local/state/shoal.",
)
@data_dir_option
def command(control_plane: str, state_dir: Path | None, data_dir: Path | None) -> None:
    """Start a control plane in the background, with the operator and the CustomResourceDefinitions, and keep it.

    Its state outlives it: a job that ran goes on after the next `shoal up`.
    """
    with embedded_installed():
        from shoal_embedded.supervisor import PlaneError, start_detached

    folder = writable_folder(state_dir or default_state_dir(), "--state-dir")
    data = writable_folder(data_dir or default_data_dir(), "--data-dir")
    try:
        kubeconfig = asyncio.run(start_detached(folder, control_plane, data))
    except PlaneError as error:
        raise UserError(str(error)) from error
    click.echo(f"the control plane is up: export KUBECONFIG={shlex.quote(str(kubeconfig))}")
