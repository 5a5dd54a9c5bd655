"""Runs the main example once for each seed and tabulates what was learned, beside an optimal and a random policy.

    python bench/learning.py [--seeds 1 2 3 4 5] [--job examples/frozenlake/job.yaml] [--out docs/learning.md]

Every run is `shoal run`: control plane, operator, two vLLM engines, environments, agents, data manager and trainer,
all as on a person's laptop. Start and final success are of fresh episodes that were never trained on. Exits with 1
unless every run ends at `--share` of the optimum or above, and at least `--gain` above its start.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from shoal.api.services.report import RunReport

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "frozenlake"
LEARNED = 0.9


@dataclass(frozen=True)
class Run:
    """One seed's run. Seconds are of the wall clock; `start` and `final` are shares of fresh episodes."""

    seed: int
    total_seconds: float
    report: RunReport

    @property
    def start(self) -> float:
        """Success before the first step."""
        return self.report.evaluations[0].success

    @property
    def final(self) -> float:
        """Success of the last weights."""
        return self.report.evaluations[-1].success

    @property
    def learning_seconds(self) -> float:
        """From the start of the first step's training to the end of the last step."""
        first = self.report.steps[0]
        began = first.finished_at - first.metrics.get("step_seconds", 0.0)
        return self.report.steps[-1].finished_at - began

    @property
    def turns(self) -> int:
        """Model turns that were trained on."""
        return round(sum((point.turns or 0) * point.trajectories for point in self.report.steps))

    @property
    def seconds_to_learn(self) -> float | None:
        """Until the mean reward of three steps first reached `LEARNED`; None where it never did."""
        points = self.report.steps
        began = points[0].finished_at - points[0].metrics.get("step_seconds", 0.0)
        for last in range(2, len(points)):
            window = [points[index].reward or 0.0 for index in range(last - 2, last + 1)]
            if statistics.mean(window) >= LEARNED:
                return points[last].finished_at - began
        return None

    @property
    def gap(self) -> float:
        """The largest difference of a token's log-prob between trainer and engine, over all steps."""
        return max(point.metrics["logprob_gap"] for point in self.report.steps)


def run_once(job: Path, seed: int, timeout: float, more: list[str]) -> Run:
    """One `shoal run`, with `more` arguments; raises CalledProcessError when it fails."""
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        command = [sys.executable, "-m", "shoal.cli.main", "run", str(job), "--seed", str(seed), *more]
        began = time.monotonic()
        subprocess.run([*command, "--report-dir", folder, "--timeout", str(timeout)], check=True, cwd=ROOT)
        total = time.monotonic() - began
        report = RunReport.model_validate_json(Path(folder, "report.json").read_bytes())
    return Run(seed, total, report)


def build_model(job: Path) -> None:
    """Build the example's model where the manifest expects it, unless it is there as it would be built."""
    import yaml

    source = yaml.safe_load(job.read_text())["spec"]["model"]["source"]
    target = Path(source.removeprefix("file:").removeprefix("//"))
    subprocess.run([sys.executable, str(EXAMPLE / "build_model.py"), "--out", str(target)], check=True)


def baselines(job: Path) -> dict[str, float]:
    """Success of an optimal and of a random policy on the job's evaluation episodes."""
    spec = importlib.util.spec_from_file_location("baselines", EXAMPLE / "baselines.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found: dict[str, float] = module.baselines(job)
    return found


def row(run: Run) -> str:
    """A line of the table."""
    learned = f"{run.seconds_to_learn:.0f}" if run.seconds_to_learn is not None else "never"
    staleness = ", ".join(f"{age}: {count}" for age, count in sorted(run.report.staleness.items()))
    proof = run.report.proof
    return (
        f"| {run.seed} | {run.start:.1%} | {run.final:.1%} | {learned} | {run.learning_seconds:.0f} | "
        f"{run.total_seconds:.0f} | {run.turns} | {staleness} | {run.gap:.1e} | "
        f"{proof.trained_more_than_once} / {proof.lost} |"
    )


def table(runs: list[Run], reference: dict[str, float], job: Path) -> str:
    """The whole result as Markdown."""
    finals, starts = [run.final for run in runs], [run.start for run in runs]
    head = (
        "| seed | start | final | s to 90 % | s learning | s in all | turns | staleness | log-prob gap | twice / lost |"
    )
    cores = len(os.sched_getaffinity(0))
    lines = [
        "# What the main example learns",
        "",
        f"`python bench/learning.py` ran `shoal run {job.relative_to(ROOT)}` for {len(runs)} seeds on {cores} cores "
        f"({platform.machine()}, Python {platform.python_version()}), real vLLM as the engine.",
        "",
        f"- optimal policy (value iteration), same episodes: **{reference['optimal']:.1%}**",
        f"- random valid actions, same episodes: **{reference['random']:.1%}**",
        f"- the policy at the start: {statistics.mean(starts):.1%} (highest {max(starts):.1%})",
        f"- the policy at the end: **{statistics.mean(finals):.1%}** (lowest {min(finals):.1%})",
        "",
        head,
        "|" + "---|" * (head.count("|") - 1),
        *(row(run) for run in runs),
        "",
        "start, final: share of fresh episodes with reward 1, sampled at temperature 1. s to 90 %: seconds until",
        "the mean reward of three steps in a row was 0.9. turns: model calls trained on. staleness: trained",
        "trajectories by the versions that their oldest token lags behind. log-prob gap: largest |trainer - engine|",
        "of a trained token. twice / lost: trajectories trained more than once, and lost, by the store's own query.",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run, print, write, judge."""
    parser = argparse.ArgumentParser(description="What the main example learns, seed by seed.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--job", type=Path, default=EXAMPLE / "job.yaml")
    parser.add_argument("--out", type=Path, help="Write the table here as well.")
    parser.add_argument("--timeout", type=float, default=600.0, help="Seconds that one run may take.")
    parser.add_argument("--share", type=float, default=0.9, help="Of the optimum, that every run must reach.")
    parser.add_argument("--gain", type=float, default=0.4, help="That every run must gain over its start.")
    parser.add_argument("more", nargs="*", help="After --: further arguments of `shoal run`.")
    arguments = parser.parse_args()
    more: list[str] = arguments.more
    job = arguments.job.resolve()
    build_model(job)
    reference = baselines(job)
    runs = [run_once(job, seed, arguments.timeout, more) for seed in arguments.seeds]
    text = table(runs, reference, job)
    print(text)
    if arguments.out:
        arguments.out.write_text(text)
    floor = arguments.share * reference["optimal"]
    good = [run for run in runs if run.final >= floor and run.final - run.start >= arguments.gain]
    print(f"{len(good)} of {len(runs)} runs reach {floor:.0%} with a gain of {arguments.gain:.0%}")
    return 0 if len(good) == len(runs) else 1


if __name__ == "__main__":
    sys.exit(main())
