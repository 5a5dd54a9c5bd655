"""`shoal down`: end the control plane that `shoal up` started."""

from pathlib import Path

import click

from shoal.cli.embedded import embedded_installed
from shoal.cli.options import default_state_dir


@click.command()
@click.option("--state-dir", type=click.Path(path_type=Path), help="Default: $SHOAL_STATE_DIR or ~/.local/state/shoal.")
def command(state_dir: Path | None) -> None:
    """End the control plane and every process of it. Its state stays."""
    with embedded_installed():
        from shoal_embedded.supervisor import stop_detached

    folder = state_dir or default_state_dir()
    click.echo("the control plane is down" if stop_detached(folder) else f"no control plane runs in {folder}")
