"""`shoal status`: jobs, pools and fleets in three short tables."""

import asyncio
from pathlib import Path

import click

from shoal.cli import table
from shoal.cli.cluster import Snapshot, connect
from shoal.cli.options import kubeconfig_option, namespace_option, resolve_kubeconfig


def show(snapshot: Snapshot) -> str:
    """The tables of a snapshot, separated by empty lines."""
    parts = (
        table.render(table.JOB_HEAD, [table.job_row(body) for body in snapshot.jobs]),
        table.render(table.POOL_HEAD, [table.pool_row(body) for body in snapshot.pools]),
        table.render(table.FLEET_HEAD, [table.fleet_row(body) for body in snapshot.fleets]),
    )
    return "\n".join(part for part in parts if part)


@click.command()
@kubeconfig_option
@namespace_option
def command(kubeconfig: Path | None, namespace: str) -> None:
    """Show the jobs, pools and fleets of a namespace."""

    async def read() -> str:
        async with connect(resolve_kubeconfig(kubeconfig), namespace) as cluster:
            text = show(await cluster.snapshot())
            if not text:
                await cluster.check_namespaces({namespace}, make=False)
            return text

    click.echo(asyncio.run(read()) or f"nothing in namespace {namespace}", nl=True)
