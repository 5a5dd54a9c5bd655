"""Runs the main example with several seeds and prints what each run did: `python -m bench.runs --seeds 5`.

Each run is the README's first command without its installation: a control plane, two vLLM engines, agents,
environments, data manager,
trainer, on this machine. Beside the policy stand its two baselines, measured on the same environment with the same
held-out seeds: a
policy that acts at random, and a scripted optimal one (value iteration on the environment's own transition table).
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import yaml

from shoal.api.services.report import RunReport
from shoal.cli.report import trainer_share

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "frozenlake" / "job.yaml"
SWEEPS = 200
"""Of value iteration: far more than the lake has cells, so the values are exact for a deterministic lake."""


@dataclass(frozen=True)
class Run:
    """One run's report, the planes' shares, and its length in seconds from start to end."""

    seed: int
    seconds: float
    report: RunReport
    usage: dict[str, str]

    @property
    def learning_seconds(self) -> float:
        """From the beginning of the first step to the end of the last."""
        steps = self.report.steps
        return steps[-1].finished_at - steps[0].finished_at + steps[0].metrics.get("step_seconds", 0.0)

    def success(self, purpose: str) -> float:
        """Success on fresh episodes."""
        return next(point.success for point in self.report.evaluations if point.purpose == purpose)


def run_once(seed: int, control_plane: str) -> Run:
    """One run; raises CalledProcessError when the job did not complete."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "shoal.cli.main", "run", str(EXAMPLE), f"--seed={seed}"]
        command += [f"--control-plane={control_plane}", f"--report-dir={folder}"]
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        seconds = time.monotonic() - began
        report = RunReport.model_validate_json((Path(folder) / "report.json").read_bytes())
        return Run(seed, seconds, report, json.loads((Path(folder) / "usage.json").read_text()))


def baselines() -> dict[str, float]:
    """Success of a random and of an optimal policy on the example's own environment and held-out seeds."""
    job = yaml.safe_load(EXAMPLE.read_text())["spec"]
    pool = job["environments"][0]["template"]["spec"]["environment"]
    lake: Any = gymnasium.make(pool["entrypoint"], **pool["config"]["kwargs"])
    evaluation, turns = job["data"]["evaluation"], job["agents"]["maxTurns"]
    start = evaluation.get("seedsStart", 1_000_000_000)
    seeds = range(start, start + evaluation["episodes"])
    table = _optimal_actions(lake.unwrapped.P, lake.action_space.n)
    dice = random.Random(0)
    policies = {"random": lambda state: dice.randrange(lake.action_space.n), "optimal": lambda state: table[state]}
    return {
        name: statistics.mean(_play(lake, policy, seed, turns) for seed in seeds) for name, policy in policies.items()
    }


def _play(lake: Any, policy: Any, seed: int, turns: int) -> float:
    state, _ = lake.reset(seed=seed)
    total = 0.0
    for _ in range(turns):
        state, reward, terminated, truncated, _ = lake.step(policy(int(state)))
        total += float(reward)
        if terminated or truncated:
            break
    return total


def _optimal_actions(transitions: Any, actions: int) -> dict[int, int]:
    """Value iteration (Bellman 1957), discounted a little so that shorter ways win."""
    values = dict.fromkeys(transitions, 0.0)

    def worth(state: int, action: int) -> float:
        outcomes = transitions[state][action]
        return float(sum(p * (reward + 0.99 * values[after] * (not done)) for p, after, reward, done in outcomes))

    for _ in range(SWEEPS):
        values = {state: max(worth(state, action) for action in range(actions)) for state in transitions}
    return {state: max(range(actions), key=lambda action: worth(state, action)) for state in transitions}


def table(runs: list[Run], known: dict[str, float]) -> str:
    """The runs as a Markdown table, with the spread over seeds below it."""
    head = [
        "seed",
        "start",
        "final",
        "learning s",
        "whole run s",
        "episodes",
        "trained",
        "stale 0/1/2",
        "log-prob gap",
        "trainer busy",
    ]
    rows = [[*_row(run)] for run in runs]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    finals = [run.success("final") for run in runs]
    gains = [run.success("final") - run.success("initial") for run in runs]
    lines += [
        "",
        f"On the same held-out episodes: scripted optimal policy {known['optimal']:.1%}, random {known['random']:.1%}.",
        f"Final success: {_spread(finals)}; gain over the start: {_spread(gains)} (min / median / max over seeds).",
        f"Share of the optimum: {min(finals) / known['optimal']:.1%} at least.",
        f"Every trajectory trained at most once, none lost: {all(run.report.proof.holds for run in runs)}.",
        "",
    ]
    names = sorted({name for run in runs for name in run.usage})
    lines += [f"* {name}: {', '.join(run.usage.get(name, '-') for run in runs)}" for name in names]
    lines += [f"* episodes by outcome, seed {run.seed}: {run.report.outcomes}" for run in runs]
    return "\n".join(lines) + "\n"


def _row(run: Run) -> tuple[str, ...]:
    report = run.report
    gap = max(point.metrics.get("logprob_gap", 0.0) for point in report.steps)
    return (
        str(run.seed),
        f"{run.success('initial'):.1%}",
        f"{run.success('final'):.1%}",
        f"{run.learning_seconds:.0f}",
        f"{run.seconds:.0f}",
        str(sum(report.outcomes.values())),
        str(report.proof.trained),
        "/".join(str(report.staleness.get(behind, 0)) for behind in range(3)),
        f"{gap:.0e}",
        f"{trainer_share(report) or 0:.0%}",
    )


def _spread(values: list[float]) -> str:
    return f"{min(values):.1%} / {statistics.median(values):.1%} / {max(values):.1%}"


def main() -> None:
    """Run the seeds one after the other and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N-1")
    parser.add_argument("--control-plane", default="embedded", choices=["embedded", "kube-apiserver"])
    parser.add_argument("--write", type=Path, help="also write the table into this file")
    options = parser.parse_args()
    runs = []
    for seed in range(options.seeds):
        runs.append(run_once(seed, options.control_plane))
        print(" ".join(_row(runs[-1])), flush=True)
    load = f"{len(os.sched_getaffinity(0))} cores, control plane {options.control_plane}"
    text = f"`python -m bench.runs --seeds {options.seeds}`, {load}.\n\n{table(runs, baselines())}"
    print(text)
    if options.write:
        options.write.write_text(text)


if __name__ == "__main__":
    main()
