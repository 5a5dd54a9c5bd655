"""What the FrozenLake example's policy is measured against: the optimal policy, and random valid actions.

    python examples/frozenlake/baselines.py [--job examples/frozenlake/job.yaml]

The optimum is computed by value iteration on the environment's own transition table, then *played*: on the same
episodes (environment arguments, evaluation seeds, turn limit) as the job's evaluation, read from its manifest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import yaml

Policy = Callable[[int], int]

DEFAULT_JOB = Path(__file__).with_name("job.yaml")
# Below 1, so that of two ways to the goal the shorter one is better: turns are limited.
DISCOUNT = 0.99
SWEEPS = 1000


@dataclass(frozen=True)
class Episodes:
    """The episodes that a job evaluates on."""

    entrypoint: str
    kwargs: Mapping[str, Any]
    seeds: range
    max_turns: int

    @classmethod
    def of_manifest(cls, path: Path) -> Episodes:
        """Read from an RLJob; raises KeyError naming what it lacks."""
        spec = yaml.safe_load(path.read_text())["spec"]
        environment = spec["environments"][0]["template"]["spec"]["environment"]
        evaluation = spec["data"]["evaluation"]
        start = evaluation.get("seedsStart", 1_000_000_000)
        return cls(
            entrypoint=environment["entrypoint"],
            kwargs=environment["config"].get("kwargs", {}),
            seeds=range(start, start + evaluation["episodes"]),
            max_turns=spec["agents"]["maxTurns"],
        )


def optimal_policy(environment: gymnasium.Env[Any, Any]) -> Policy:
    """The greedy policy of the optimal value function, for an environment with a transition table `P` (toy text)."""
    table: Mapping[int, Mapping[int, list[tuple[float, int, float, bool]]]] = environment.unwrapped.P  # type: ignore[attr-defined]
    values = np.zeros(len(table))

    def worth(state: int, action: int) -> float:
        return sum(
            chance * (reward + DISCOUNT * float(values[following]) * (not ended))
            for chance, following, reward, ended in table[state][action]
        )

    for _ in range(SWEEPS):
        improved = np.array([max(worth(state, action) for action in table[state]) for state in table])
        if np.abs(improved - values).max() < 1e-9:
            break
        values = improved
    choice = {state: max(table[state], key=lambda action: worth(state, action)) for state in table}
    return lambda state: choice[state]


def random_policy(environment: gymnasium.Env[Any, Any], seed: int = 0) -> Policy:
    """Uniform over the valid actions."""
    generator = np.random.default_rng(seed)
    count = int(environment.action_space.n)  # type: ignore[attr-defined]
    return lambda state: int(generator.integers(count))


def play(environment: gymnasium.Env[Any, Any], policy: Policy, episodes: Episodes) -> float:
    """Share of the episodes whose reward is 1."""
    won = 0
    for seed in episodes.seeds:
        state, _ = environment.reset(seed=seed)
        total = 0.0
        for _ in range(episodes.max_turns):
            state, reward, terminated, truncated, _ = environment.step(policy(int(state)))
            total += float(reward)
            if terminated or truncated:
                break
        won += total >= 1
    return won / len(episodes.seeds)


def baselines(job: Path = DEFAULT_JOB) -> dict[str, float]:
    """Success of the optimal policy and of random valid actions on the job's evaluation episodes."""
    episodes = Episodes.of_manifest(job)
    environment = gymnasium.make(episodes.entrypoint, **episodes.kwargs)
    return {
        "optimal": play(environment, optimal_policy(environment), episodes),
        "random": play(environment, random_policy(environment), episodes),
    }


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description="Optimal and random success on the job's evaluation episodes.")
    parser.add_argument("--job", type=Path, default=DEFAULT_JOB)
    print(json.dumps(baselines(parser.parse_args().job)))


if __name__ == "__main__":
    main()
