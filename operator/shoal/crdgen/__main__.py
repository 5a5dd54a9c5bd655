"""`python -m shoal.crdgen [--check] [--out crds]`."""

from pathlib import Path

import click

from shoal.crdgen import generate


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("crds"), show_default=True, help="Folder of the files."
)
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 when a file differs from the models.")
def main(out: Path, check: bool) -> None:
    """Generate the CustomResourceDefinitions from the models."""
    changed = generate.stale(out) if check else generate.write(out)
    for name in changed:
        click.echo(f"{out / name} {'differs from the models' if check else 'written'}")
    if check and changed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
