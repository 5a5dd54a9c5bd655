"""`shoal validate`: check manifests without a cluster."""

from pathlib import Path

import click

from shoal.api.validate import is_ours, validate_manifest
from shoal.cli.manifests import read_manifests


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def command(files: tuple[Path, ...]) -> None:
    """Check manifests as the API server would, and name each field that is wrong.

    Exits with 1 when something is wrong.
    """
    wrong = 0
    for document in read_manifests(files):
        name = f"{document['kind']}/{document['metadata']['name']}"
        if not is_ours(document):
            click.echo(f"{name}: not checked: {document['apiVersion']} is not Shoal's")
            continue
        problems = validate_manifest(document)
        wrong += len(problems)
        for problem in problems:
            click.echo(f"{name}: {problem.path}: {problem.message}", err=True)
        if not problems:
            click.echo(f"{name}: valid")
    if wrong:
        raise SystemExit(1)
