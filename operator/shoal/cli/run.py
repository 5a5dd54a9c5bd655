"""`shoal run`: a control plane, the manifests, live progress, a summary, and nothing left behind."""

import asyncio
import json
import math
import shlex
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from shoal.api.validate import validate_manifest
from shoal.cli.cluster import Cluster, connect
from shoal.cli.embedded import embedded_installed
from shoal.cli.errors import JobFailedError, UserError
from shoal.cli.manifests import check_identity, read_manifests, set_field
from shoal.cli.options import data_dir_option, default_data_dir, namespace_option, writable_folder
from shoal.cli.progress import Progress
from shoal.cli.report import Report, Usage, fetch_report, run_folder, summary, write_curve
from shoal.kube.resources import RL_JOBS

Json = dict[str, Any]
Check = Callable[[], None]
"""Raises `JobFailedError` when the job cannot go on."""

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class RunOptions:
    """What the person asked for."""

    documents: list[Json]
    namespace: str
    control_plane: str
    kubeconfig: Path | None
    state_dir: Path | None
    data_dir: Path
    report_dir: Path
    timeout: float
    keep: bool


def _a_number(_: click.Context, parameter: click.Parameter, value: float) -> float:
    """Refuse "nan", which lies in every range."""
    if math.isnan(value):
        raise click.BadParameter("expected a number of seconds", param=parameter)
    return value


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
@data_dir_option
@click.option(
    "--report-dir", type=click.Path(file_okay=False, path_type=Path), default=Path("shoal-report"), show_default=True
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    callback=_a_number,
    default=3600.0,
    show_default=True,
    help="Seconds after which to give up.",
)
@click.option("--keep", is_flag=True, help="Leave pools, fleets and services up after the end, until Ctrl-C.")
@namespace_option
def command(
    files: tuple[Path, ...],
    seed: int | None,
    assignments: tuple[str, ...],
    control_plane: str,
    kubeconfig: Path | None,
    state_dir: Path | None,
    data_dir: Path | None,
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
    # What cannot be written is told now, not when an hour of training is over.
    writable_folder(report_dir, "--report-dir", 0o777)
    data_dir = data_dir or default_data_dir()
    if kubeconfig is None:
        writable_folder(data_dir, "--data-dir")
        if state_dir is not None:
            writable_folder(state_dir, "--state-dir")
    namespace = _namespace(documents, namespace)
    options = RunOptions(
        documents, namespace, control_plane, kubeconfig, state_dir, data_dir, report_dir, timeout, keep
    )
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


def _namespace(documents: list[Json], given: str) -> str:
    """The namespace of the job: its manifest's, unless the command line names another one."""
    (job,) = _jobs(documents)
    own = job["metadata"].get("namespace")
    if own is None:
        return given
    source = click.get_current_context().get_parameter_source("namespace")
    if own != given and source is not ParameterSource.DEFAULT:
        raise UserError(f"--namespace {given}: the manifest of RLJob/{job['metadata']['name']} says namespace {own!r}")
    return str(own)


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
        kubeconfig, check = options.kubeconfig, lambda: None
        if kubeconfig is None:
            kubeconfig, check = await _start_control_plane(stack, options)
        cluster = await stack.enter_async_context(connect(kubeconfig, options.namespace))
        await _apply(cluster, options)
        job = _jobs(options.documents)[0]["metadata"]["name"]
        usage = Usage()
        with Progress() as progress:
            body = await _follow(cluster, job, options.timeout, progress, usage, check)
        _conclude(await fetch_report(cluster, body, options.data_dir), usage, options.report_dir)
        _name_data(body, options)
        if options.keep:
            click.echo("The services stay up; Ctrl-C ends them.")
            await asyncio.Event().wait()
    failed = next(
        (each for each in body["status"]["conditions"] if each["type"] == "Failed" and each["status"] == "True"), None
    )
    if failed is not None:
        raise JobFailedError(f"RLJob {job} failed: {failed['reason']}: {failed['message']}")


async def _start_control_plane(stack: AsyncExitStack, options: RunOptions) -> tuple[Path, Check]:
    """The kubeconfig of a new control plane, and what tells that it has failed."""
    with embedded_installed():
        from shoal_embedded.supervisor import ControlPlane, PlaneError

    state_dir = options.state_dir
    if state_dir is None:
        state_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-", ignore_cleanup_errors=True)))
    click.echo(f"starting the control plane ({options.control_plane})")
    try:
        plane = await stack.enter_async_context(
            ControlPlane(state_dir, kind=options.control_plane, data_dir=options.data_dir)
        )
    except PlaneError as error:
        raise UserError(str(error)) from error
    click.echo(f"kubectl --kubeconfig {shlex.quote(str(plane.kubeconfig))} get shoal")

    def check() -> None:
        try:
            plane.check()
        except PlaneError as error:
            raise JobFailedError(str(error)) from error

    return Path(plane.kubeconfig), check


async def _apply(cluster: Cluster, options: RunOptions) -> None:
    await cluster.check_namespaces(
        {options.namespace, *_namespaces(options.documents)}, make=options.kubeconfig is None
    )
    for document in options.documents:
        await cluster.apply(document)
        click.echo(f"{document['kind'].lower()}/{document['metadata']['name']} applied")


def _namespaces(documents: list[Json]) -> set[str]:
    """Namespaces that the manifests name and do not make."""
    made = {document["metadata"]["name"] for document in documents if document["kind"] == "Namespace"}
    named = {document["metadata"].get("namespace") for document in documents}
    return {str(each) for each in named - made if each is not None}


async def _follow(cluster: Cluster, job: str, timeout: float, progress: Progress, usage: Usage, check: Check) -> Json:
    """Poll until the job has ended; a control plane that restarts meanwhile is waited for."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        check()
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


def _name_data(job: Json, options: RunOptions) -> None:
    """Say where checkpoints, weights and the store stay after a run on this machine."""
    root = (job["spec"]["storage"].get("hostPath") or {}).get("path")
    if root is not None and options.kubeconfig is None:
        click.echo(f"data: {run_folder(job, Path(root), options.data_dir)}")


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
