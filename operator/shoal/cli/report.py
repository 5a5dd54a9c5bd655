"""The end of a run: where its report comes from, what a person reads, and the reward curve as a picture."""

import atexit
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import ValidationError

from shoal.api.addresses import http_url
from shoal.api.labels import JOB, PORTS, ROLE, Role
from shoal.api.services.report import RunReport
from shoal.cli.cluster import Cluster, Snapshot
from shoal.cli.options import is_writable
from shoal.kube.errors import ApiError

Json = dict[str, Any]

FETCH_SECONDS = 10.0
HOST_DATA = Path("/var/lib/shoal")
"""Host paths below it lie in the data folder of the one who started the control plane."""


@dataclass(frozen=True)
class Report:
    """The data manager's report, as it came and as a model."""

    raw: bytes
    run: RunReport


async def fetch_report(cluster: Cluster, job: Json, data_dir: Path) -> Report | None:
    """The report: from the data manager, which outlives its job a little, or from a shared volume of this machine."""
    raw = await _from_service(cluster, job) or _from_volume(job, data_dir)
    if raw is None:
        return None
    try:
        return Report(raw, RunReport.model_validate_json(raw))
    except ValidationError:
        return None


async def _from_service(cluster: Cluster, job: Json) -> bytes | None:
    name = job["metadata"]["name"]
    try:
        pods = await cluster.pods(f"{ROLE}={Role.DATA},{JOB}={name}")
        tokens = await cluster.tokens(f"{name}-job-token")
    except ApiError:
        return None
    address = next((pod["status"]["podIP"] for pod in pods if pod.get("status", {}).get("podIP")), None)
    if address is None:
        return None
    url = http_url(address, PORTS[Role.DATA], "/report")
    try:
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for token in tokens:
                async with session.get(url, headers={"Authorization": f"Bearer {token}"}) as answer:
                    if answer.status == 200:
                        return await answer.read()
    except (aiohttp.ClientError, TimeoutError):
        pass
    return None


def run_folder(job: Json, root: Path, data_dir: Path) -> Path:
    """The run's folder on this machine, in storage with this host path."""
    metadata = job["metadata"]
    if root.is_relative_to(HOST_DATA):
        root = data_dir / root.relative_to(HOST_DATA)
    folder: Path = root / metadata["namespace"] / f"{metadata['name']}-{metadata['uid'][:8]}"
    return folder


def _from_volume(job: Json, data_dir: Path) -> bytes | None:
    root = (job["spec"]["storage"].get("hostPath") or {}).get("path")
    if root is None:
        return None
    try:
        return (run_folder(job, Path(root), data_dir) / "report" / "report.json").read_bytes()
    except OSError:
        return None


@dataclass
class Usage:
    """How busy the planes were while the job trained: differences of what pools, fleets and job told."""

    first: Snapshot | None = None
    last: Snapshot | None = None

    def see(self, snapshot: Snapshot) -> None:
        """Take a snapshot; those from before the first step and after the end do not count."""
        if not any(job.get("status", {}).get("phase") == "Running" for job in snapshot.jobs):
            return
        if self.first is None:
            self.first = snapshot
        self.last = snapshot

    def lines(self) -> list[tuple[str, str]]:
        """Name and share of each plane that was seen at work."""
        if self.first is None or self.last is None:
            return []
        pools, fleets = self._differences("pools"), self._differences("fleets")
        found = []
        if pools.get("slotSeconds"):
            found.append(("environment slots inside an episode", _share(pools, "occupiedSeconds", "slotSeconds")))
            found.append(("environment slots executing", _share(pools, "activeSeconds", "slotSeconds")))
        if fleets.get("engineSeconds"):
            found.append(("engines executing", _share(fleets, "busySeconds", "engineSeconds")))
        if fleets.get("servedWhileUpdating"):
            served = f"{fleets['servedWhileUpdating']} of {fleets['requests']}"
            found.append(("requests served while an engine updated", served))
        return found

    def _differences(self, kind: str) -> dict[str, int]:
        assert self.first is not None
        assert self.last is not None
        before: dict[str, int] = {}
        after: dict[str, int] = {}
        for snapshot, sums in ((self.first, before), (self.last, after)):
            for body in getattr(snapshot, kind):
                for key, value in body.get("status", {}).get("usage", {}).items():
                    sums[key] = sums.get(key, 0) + value
        return {key: value - before.get(key, 0) for key, value in after.items()}


def summary(report: RunReport, usage: Usage) -> str:
    """What a person wants to know of a run, in a dozen lines."""
    lines = ["", f"{report.job}, seed {report.seed}: {len(report.steps)} steps"]
    for point in report.evaluations:
        versions = f"version {point.version}"
        lines.append(
            f"  success on {point.episodes} fresh episodes, {point.purpose:8} {versions:11} {point.success:7.1%}"
        )
    if report.optimum is not None:
        lines.append(f"  success of an optimal policy                           {report.optimum:7.1%}")
    rewards = [point.reward for point in report.steps if point.reward is not None]
    if rewards:
        lines.append(f"  reward of the first and the last step   {rewards[0]:.3f} {rewards[-1]:.3f}")
    lines += [f"  {name:39} {share}" for name, share in usage.lines()]
    busy = trainer_share(report)
    if busy is not None:
        lines.append(f"  trainer computing                       {busy:.1%}")
    gaps = [point.metrics["logprob_gap"] for point in report.steps if "logprob_gap" in point.metrics]
    if gaps:
        lines.append(f"  largest |trainer - engine| log-prob     {max(gaps):.1e}")
    lines.append(f"  staleness of trained trajectories       {_counts(report.staleness)}")
    lines.append(f"  episodes by outcome                     {_counts(report.outcomes)}")
    lines.append(f"  trajectories dropped                    {_counts(report.dropped) or 'none'}")
    proof = report.proof
    verdict = "holds" if proof.holds else "DOES NOT HOLD"
    lines.append(
        f"  every trajectory trained at most once   {verdict}: {proof.recorded} recorded = {proof.trained} trained"
        f" + {proof.dropped} dropped + {proof.waiting} waiting, {proof.trained_more_than_once} twice, {proof.lost} lost"
    )
    return "\n".join(lines)


def _counts(table: Any) -> str:
    return ", ".join(f"{key}: {count}" for key, count in sorted(table.items(), key=lambda item: str(item[0])))


def _share(values: dict[str, int], part: str, whole: str) -> str:
    return f"{values.get(part, 0) / values[whole]:.1%}"


def trainer_share(report: RunReport) -> float | None:
    """Share of the time between first and last step that the trainer computed; None for fewer than two steps."""
    if len(report.steps) < 2:
        return None
    span = report.steps[-1].finished_at - report.steps[0].finished_at
    busy = sum(point.metrics.get("train_seconds", 0.0) for point in report.steps[1:])
    return busy / span if span > 0 else None


def write_curve(report: RunReport, file: Path) -> Path | None:
    """The reward curve as a picture; None where matplotlib is not installed or there is nothing to draw."""
    if not is_writable(Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")):
        # matplotlib would print six lines about it.
        folder = tempfile.mkdtemp(prefix="shoal-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ.setdefault("MPLCONFIGDIR", folder)
        os.environ.setdefault("XDG_CACHE_HOME", folder)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    points = [(point, point.reward) for point in report.steps if point.reward is not None]
    if not points:
        return None
    first = points[0][0]
    start = first.finished_at - first.metrics.get("step_seconds", 0.0)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    seconds = [point.finished_at - start for point, _ in points]
    axes.plot(seconds, [reward for _, reward in points], marker=".", label="mean reward of each step's batch")
    for point in report.evaluations:
        axes.plot(
            point.finished_at - start,
            point.success,
            "s",
            label=f"{point.purpose}: {point.success:.1%} of fresh episodes",
        )
    if report.optimum is not None:
        axes.axhline(report.optimum, linestyle=":", color="gray", label="optimal policy")
    axes.set(xlabel="seconds since the first step", ylabel="reward", title=f"{report.job}, seed {report.seed}")
    axes.legend(loc="center right")
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
    return file
