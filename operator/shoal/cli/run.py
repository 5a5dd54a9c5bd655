"""`shoal run`: a control plane, the manifests, live progress, a summary, and nothing left behind."""

import asyncio
import json
import signal
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from shoal.api.validate import validate_manifest
from shoal.cli.cluster import Cluster, connect
from shoal.cli.embedded import embedded_installed
from shoal.cli.errors import JobFailedError, UserError
from shoal.cli.manifests import check_identity, read_manifests, set_field
from shoal.cli.options import namespace_option
from shoal.cli.progress import Progress
from shoal.cli.report import Report, Usage, fetch_report, summary, write_curve
from shoal.kube.errors import NotFoundError
from shoal.kube.resources import RL_JOBS

Json = dict[str, Any]

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class RunOptions:
    """What the person asked for."""

    documents: list[Json]
    namespace: str
    control_plane: str
    kubeconfig: Path | None
    state_dir: Path | None
    report_dir: Path
    timeout: float
    keep: bool


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--seed", type=int, help="Sets spec.seed of every RLJob.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="PATH=VALUE",
    help="Sets a field of every RLJob, such as spec.trainer.steps=20.",
)
@click.option(
    "--control-plane",
    type=click.Choice(["embedded", "kube-apiserver"]),
    default="embedded",
    show_default=True,
    help="kube-apiserver: the real one, from the folder that KUBEBUILDER_ASSETS names.",
)
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Use this cluster, where the operator runs already.",
)
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the control plane's state here, so that a later run resumes the job.",
)
@click.option("--report-dir", type=click.Path(path_type=Path), default=Path("shoal-report"), show_default=True)
@click.option("--timeout", type=float, default=3600.0, show_default=True, help="Seconds after which to give up.")
@click.option("--keep", is_flag=True, help="Leave pools, fleets and services up after the end, until Ctrl-C.")
@namespace_option
def command(
    files: tuple[Path, ...],
    seed: int | None,
    assignments: tuple[str, ...],
    control_plane: str,
    kubeconfig: Path | None,
    state_dir: Path | None,
    report_dir: Path,
    timeout: float,
    keep: bool,
    namespace: str,
) -> None:
    """Apply manifests and follow their RLJob until it has ended.

    Exits with 0 when the job is Complete, 1 when it failed, 2 for input that cannot work, 130 after Ctrl-C.
    """
    documents = read_manifests(files)
    _adjust(documents, seed, assignments)
    _check(documents)
    options = RunOptions(documents, namespace, control_plane, kubeconfig, state_dir, report_dir, timeout, keep)
    try:
        asyncio.run(_interruptible(options))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _adjust(documents: list[Json], seed: int | None, assignments: tuple[str, ...]) -> None:
    for job in _jobs(documents):
        if seed is not None:
            set_field(job, f"spec.seed={seed}")
        for assignment in assignments:
            set_field(job, assignment)
            check_identity(job, f"--set {assignment}")


def _jobs(documents: list[Json]) -> list[Json]:
    return [document for document in documents if document["kind"] == "RLJob"]


def _check(documents: list[Json]) -> None:
    if len(_jobs(documents)) != 1:
        raise UserError(f"expected exactly one RLJob in the manifests, found {len(_jobs(documents))}")
    problems = [
        f"{document['kind']}/{document['metadata']['name']}: {problem.path}: {problem.message}"
        for document in documents
        for problem in validate_manifest(document)
    ]
    if problems:
        raise UserError("\n".join(problems))


async def _interruptible(options: RunOptions) -> None:
    """Run as a task that SIGINT and SIGTERM cancel, so that every clean-up runs before the process ends."""
    task = asyncio.ensure_future(_run(options))
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _run(options: RunOptions) -> None:
    async with AsyncExitStack() as stack:
        kubeconfig = options.kubeconfig or await _start_control_plane(stack, options)
        cluster = await stack.enter_async_context(connect(kubeconfig, options.namespace))
        await _apply(cluster, options)
        job = _jobs(options.documents)[0]["metadata"]["name"]
        usage = Usage()
        with Progress() as progress:
            body = await _follow(cluster, job, options.timeout, progress, usage)
        _conclude(await fetch_report(cluster, body), usage, options.report_dir)
        if options.keep:
            click.echo("The services stay up; Ctrl-C ends them.")
            await asyncio.Event().wait()
    failed = next(
        (each for each in body["status"]["conditions"] if each["type"] == "Failed" and each["status"] == "True"), None
    )
    if failed is not None:
        raise JobFailedError(f"RLJob {job} failed: {failed['reason']}: {failed['message']}")


async def _start_control_plane(stack: AsyncExitStack, options: RunOptions) -> Path:
    with embedded_installed():
        from shoal_embedded.supervisor import ControlPlane, PlaneError

    state_dir = options.state_dir
    if state_dir is None:
        state_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-", ignore_cleanup_errors=True)))
    click.echo(f"starting the control plane ({options.control_plane})")
    try:
        plane = await stack.enter_async_context(ControlPlane(state_dir, kind=options.control_plane))
    except PlaneError as error:
        raise UserError(str(error)) from error
    click.echo(f"kubectl --kubeconfig {plane.kubeconfig} get shoal")
    return Path(plane.kubeconfig)


async def _apply(cluster: Cluster, options: RunOptions) -> None:
    try:
        await cluster.snapshot()
    except NotFoundError:
        missing = "Shoal's CustomResourceDefinitions are not installed"
        raise UserError(f"{missing}: shoal crds | kubectl apply --server-side -f -") from None
    for document in options.documents:
        await cluster.apply(document)
        click.echo(f"{document['kind'].lower()}/{document['metadata']['name']} applied")


async def _follow(cluster: Cluster, job: str, timeout: float, progress: Progress, usage: Usage) -> Json:
    """Poll until the job has ended; a control plane that restarts meanwhile is waited for."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        snapshot = await progress.patiently(cluster.snapshot)
        if snapshot is not None:
            progress.show(snapshot)
            usage.see(snapshot)
            for body in snapshot.jobs:
                if body["metadata"]["name"] == job and _ended(body):
                    return body
        await asyncio.sleep(POLL_SECONDS)
    body = await cluster.get(RL_JOBS, job)
    raise JobFailedError(
        f"RLJob {job} has not ended after {timeout:g} s (phase {body.get('status', {}).get('phase', 'unknown')})"
    )


def _ended(body: Json) -> bool:
    return body.get("status", {}).get("phase") in ("Complete", "Failed")


def _conclude(report: Report | None, usage: Usage, folder: Path) -> None:
    if report is None:
        click.echo("no report: the data manager did not answer any more")
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_bytes(report.raw)
    (folder / "usage.json").write_text(json.dumps(dict(usage.lines()), indent=1))
    click.echo(summary(report.run, usage))
    curve = write_curve(report.run, folder / "reward.png")
    click.echo(f"report: {folder / 'report.json'}" + (f", curve: {curve}" if curve else ""))
