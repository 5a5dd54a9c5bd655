"""Each part imports only what its extra installs."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKERS = ROOT / "workers" / "shoal_workers"
OPTIONAL = {
    "kubernetes": "imported where a kubeconfig needs it, with a message that names the package",
    "matplotlib": "draws the reward curve where it is installed (the extra `local` has it)",
}
PARTS = {
    ROOT / "operator" / "shoal": (),
    ROOT / "embedded" / "shoal_embedded": (),
    WORKERS / "service": ("services",),
    WORKERS / "telemetry": ("services",),
    WORKERS / "strategies": ("services",),
    WORKERS / "environment": ("environments",),
    WORKERS / "broker": ("environments",),
    WORKERS / "tokens": ("agents",),
    WORKERS / "agent": ("agents",),
    WORKERS / "gateway": ("agents",),
    WORKERS / "data": ("agents",),
    WORKERS / "engines": ("rollout-cpu",),
    WORKERS / "trainer": ("trainer",),
}
"""Part -> the extras of the image that runs it. Gateway and data manager share the agents' image."""


def imported(folder: Path) -> dict[str, Path]:
    """Top-level names of other distributions that the modules below import, and one module for each."""
    found: dict[str, Path] = {}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                found.setdefault(name.partition(".")[0], path.relative_to(ROOT))
    own = {*sys.stdlib_module_names, "shoal", "shoal_embedded", "shoal_workers"}
    return {name: path for name, path in found.items() if name not in own}


def wanted(extras: tuple[str, ...]) -> Iterator[str]:
    """Names of the distributions that the project and its extras ask for."""
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in PROJECT["optional-dependencies"][extra])]
    for requirement in map(Requirement, texts):
        if requirement.name == PROJECT["name"]:
            yield from wanted(tuple(requirement.extras))
        else:
            yield canonicalize_name(requirement.name)


def provided(extras: tuple[str, ...]) -> set[str]:
    """Those, and what they themselves ask for: a library's own types may be imported from where it takes them."""
    direct = set(wanted(extras))
    below = {
        canonicalize_name(requirement.name)
        for name in direct
        for requirement in map(Requirement, requires(name) or [])
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }
    return direct | below


@pytest.mark.parametrize("folder", PARTS, ids=lambda folder: folder.name)
def test_imports_only_what_its_extra_installs(folder: Path) -> None:
    for extra in PARTS[folder]:
        assert extra in PROJECT["optional-dependencies"]
    distributions = packages_distributions()
    allowed = provided(PARTS[folder])
    for name, path in imported(folder).items():
        owners = {canonicalize_name(each) for each in distributions.get(name, [name])}
        assert owners & allowed or name in OPTIONAL, f"{path} imports {name}, which {PARTS[folder] or 'the base'} lacks"


def test_every_part_is_checked() -> None:
    assert {path for path in WORKERS.iterdir() if path.is_dir() and path.name != "__pycache__"} <= set(PARTS)
