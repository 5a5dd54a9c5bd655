"""`shoal logs`: the log of a job's role, whatever its pods are called."""

import asyncio
from pathlib import Path
from typing import Any

import click

from shoal.api.labels import FLEET, JOB, POOL, PORTS, ROLE, Role
from shoal.cli.cluster import Cluster, connect
from shoal.cli.errors import UserError
from shoal.cli.options import kubeconfig_option, namespace_option, resolve_kubeconfig
from shoal.kube.errors import NotFoundError
from shoal.kube.resources import RL_JOBS

Json = dict[str, Any]


@click.command()
@click.argument("job")
@click.argument("role", type=click.Choice(list(PORTS)))
@click.option("-f", "--follow", is_flag=True, help="Go on until the pod ends.")
@click.option("--tail", type=click.IntRange(0), default=100, show_default=True, help="Lines from the end.")
@click.option("-p", "--previous", is_flag=True, help="The run before the last restart.")
@kubeconfig_option
@namespace_option
def command(
    job: str, role: str, follow: bool, tail: int, previous: bool, kubeconfig: Path | None, namespace: str
) -> None:
    """Print the log of a role's pods: of an RLJob, its pools (environment, broker) or its fleet (engine, gateway)."""

    if follow and previous:
        raise click.UsageError("--follow and --previous exclude each other: a run that has ended says no more")

    async def show() -> None:
        async with connect(resolve_kubeconfig(kubeconfig), namespace) as cluster:
            pods = await pods_of(cluster, job, role)
            if not pods:
                raise UserError(f"job {job} has no pod of role {role}")
            await asyncio.gather(*(_print(cluster, pod, len(pods) > 1, follow, tail, previous) for pod in pods))

    asyncio.run(show())


async def pods_of(cluster: Cluster, job: str, role: str) -> list[Json]:
    """The pods of a role that work for a job: its own, or those of the pools and the fleet that it uses."""
    try:
        body = await cluster.get(RL_JOBS, job)
    except NotFoundError as error:
        raise UserError(f"there is no RLJob {job} in namespace {cluster.namespace}") from error
    labels = [f"{key}={name}" for key, name in _owners(body, role)]
    found = [await cluster.pods(f"{ROLE}={role},{label}") for label in labels]
    return [pod for pods in found for pod in pods]


def _owners(job: Json, role: str) -> list[tuple[str, str]]:
    name, spec = job["metadata"]["name"], job["spec"]
    if role in (Role.ENVIRONMENT, Role.BROKER):
        return [
            (POOL, (entry.get("ref") or {}).get("name") or f"{name}-{entry['name']}") for entry in spec["environments"]
        ]
    if role in (Role.ENGINE, Role.GATEWAY):
        return [(FLEET, (spec["fleet"].get("ref") or {}).get("name") or f"{name}-fleet")]
    return [(JOB, name)]


async def _print(cluster: Cluster, pod: Json, prefixed: bool, follow: bool, tail: int, previous: bool) -> None:
    name = pod["metadata"]["name"]
    prefix = f"[{name}] " if prefixed else ""
    if follow:
        async for line in cluster.follow(name, tail):
            click.echo(prefix + line)
        return
    for line in (await cluster.log(name, tail, previous=previous)).splitlines():
        click.echo(prefix + line)
