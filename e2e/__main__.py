"""Runs the scenarios on every cluster that this machine can provide: `python -m e2e`.

The report at the end says which scenario ran where, and why others did not.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from e2e.providers import PROVIDERS, Provider
from e2e.providers.examples import ROOT, ensure_model
from e2e.providers.full_node import isolation


@dataclass(frozen=True)
class Outcome:
    """What became of one scenario on one provider."""

    outcome: str
    seconds: float
    reason: str


Results = dict[str, Outcome]
"""Scenario -> outcome."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--provider",
    "names",
    multiple=True,
    type=click.Choice(sorted(PROVIDERS)),
    help="Cluster to run on; may be repeated. Default: every one that this machine can provide.",
)
@click.option("-k", "expression", default="", help="Run the scenarios that match this pytest expression.")
@click.option("--skip-unavailable", is_flag=True, help="A named provider that cannot be used is no failure.")
@click.option("--install", is_flag=True, help="First install the full node's tools from Debian's packages (root).")
@click.option("--list", "only_list", is_flag=True, help="Say which providers can be used here, and why others cannot.")
def main(names: tuple[str, ...], expression: str, skip_unavailable: bool, install: bool, only_list: bool) -> None:
    """Run Shoal's end-to-end scenarios.

    Exit status 1 when one failed, or when a provider that was named cannot be used.
    """
    console = Console(highlight=False)
    # As Ctrl-C: what was begun is cleared away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if install:
        isolation.install()
    chosen = [PROVIDERS[name] for name in names or PROVIDERS]
    reasons = {provider.name: provider.unavailable() for provider in chosen}
    for name, reason in reasons.items():
        console.print(f"{name}: {'available' if reason is None else 'not here: ' + reason}", soft_wrap=True)
    if only_list:
        return
    if all(reasons.values()):
        sys.exit(0 if skip_unavailable else 1)
    ensure_model()
    results = {p.name: run(p, expression) for p in chosen if reasons[p.name] is None}
    console.print(table(results))
    for provider, outcomes in results.items():
        for scenario, outcome in outcomes.items():
            if outcome.outcome != "passed":
                console.print(f"{provider} {scenario}: {outcome.outcome}: {outcome.reason}", soft_wrap=True)
    refused = [name for name in names if reasons[name] is not None and not skip_unavailable]
    failed = [name for name, outcomes in results.items() if not sound(outcomes)]
    sys.exit(1 if refused or failed else 0)


def sound(outcomes: Results) -> bool:
    """Whether something ran, and nothing failed."""
    kinds = {outcome.outcome for outcome in outcomes.values()}
    return "passed" in kinds and kinds <= {"passed", "skipped"}


def run(provider: Provider, expression: str) -> Results:
    """All scenarios on one provider's cluster."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        command = [sys.executable, "-m", "pytest", "e2e/scenarios", "-m", "slow", "-s", "-x", "-p", "no:cacheprovider"]
        command += [f"--provider={provider.name}", f"--results={file}", *(["-k", expression] * bool(expression))]
        with provider.prepared() as variables:
            environment = {**os.environ, **variables}
            done = subprocess.run(provider.command(command), cwd=ROOT, env=environment, check=False)
        rows = json.loads(file.read_text()) if file.exists() else {}
    results = {node.rpartition("/")[2]: Outcome(**row) for node, row in rows.items()}
    if done.returncode != 0 and sound(results):
        results["(pytest)"] = Outcome("failed", 0.0, f"exit status {done.returncode}; see above")
    return results or {"(none)": Outcome("failed", 0.0, "no scenario was run; see above")}


def table(results: dict[str, Results]) -> Table:
    """Scenarios down, providers across."""
    drawn = Table("scenario", *results)
    for scenario in dict.fromkeys(scenario for outcomes in results.values() for scenario in outcomes):
        cells = [outcomes.get(scenario) for outcomes in results.values()]
        drawn.add_row(scenario, *("" if cell is None else f"{cell.outcome} {cell.seconds:.0f} s" for cell in cells))
    return drawn


if __name__ == "__main__":
    main()
