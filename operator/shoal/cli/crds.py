"""`shoal crds`: print the CustomResourceDefinitions, for `kubectl apply --server-side -f -`."""

import click

from shoal.crdgen import generate


@click.command()
def command() -> None:
    """Print the CustomResourceDefinitions as YAML.

    shoal crds | kubectl apply --server-side -f -
    """
    click.echo(generate.as_yaml(), nl=False)
