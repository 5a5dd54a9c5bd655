"""The set-up program, as far as it goes without a network."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "bootstrap.py"


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VENV", tmp_path)
    monkeypatch.setattr(module, "STAMP", tmp_path / "stamp.json")
    return module


def answering(output: str, code: int = 0) -> Any:
    return lambda command, **environment: subprocess.CompletedProcess(command, code, output)


def test_an_older_python_can_read_the_message() -> None:
    ast.parse(PROGRAM.read_text(), feature_version=(3, 8))


def test_without_a_command_it_explains_itself() -> None:
    done = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True, check=True)
    assert "bootstrap.py run" in done.stdout
    wrong = subprocess.run([sys.executable, str(PROGRAM), "walk"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2


@pytest.mark.parametrize(("cpus", "gib", "expected"), [(2, 8, 3), (2, 24, 4), (16, 8, 3), (1, 2, 1), (4, 64, 8)])
def test_no_more_tests_at_once_than_processors_and_memory_carry(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, cpus: int, gib: int, expected: int
) -> None:
    monkeypatch.setattr(bootstrap.os, "sched_getaffinity", lambda _: set(range(cpus)))
    monkeypatch.setattr(bootstrap.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": gib * 2**18}.__getitem__)
    assert bootstrap.test_workers() == expected


@pytest.mark.parametrize(("given", "passed"), [([], ["-n", "3"]), (["tests/cli", "-x"], ["tests/cli", "-x"])])
def test_the_whole_suite_runs_in_parallel_and_a_part_as_it_is_asked_for(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, given: list[str], passed: list[str]
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(bootstrap, "ensure", lambda lock: None)
    monkeypatch.setattr(bootstrap, "test_workers", lambda: 3)
    monkeypatch.setattr(bootstrap.os, "execv", lambda program, command: commands.append(command))
    bootstrap.main(["test", *given])
    assert commands[0][1:] == ["-m", "pytest", *passed]


def test_tells_uv_what_pip_is_told(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV_FIND_LINKS", "UV_INDEX", "UV_DEFAULT_INDEX", "UV_CACHE_DIR", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    listed = (
        ":env:.find-links='/env/wheels'\n"
        "global.cert='/certificates'\n"
        "global.extra-index-url='one\\ntwo'\n"
        "global.find-links='/wheels'\n"
        "freeze.timeout='1'\n"
    )
    monkeypatch.setattr(bootstrap, "ran", answering(listed))
    environment = bootstrap.uv_environment()
    assert environment["UV_FIND_LINKS"] == "/env/wheels"
    assert environment["UV_INDEX"] == "one two"
    assert environment["SSL_CERT_FILE"] == "/certificates"
    assert "UV_DEFAULT_INDEX" not in environment


def test_takes_the_cpu_build_where_there_is_one(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lock = ROOT / "requirements" / "local-cpu.lock"
    monkeypatch.setattr(bootstrap, "ran", answering(""))
    chosen = bootstrap.with_cpu_torch(lock, {})
    changed = set(chosen.read_text().splitlines()) ^ set(lock.read_text().splitlines())
    assert {line.partition("==")[0] for line in changed} == {"torch"}
    assert any("+cpu" in line for line in changed)
    monkeypatch.setattr(bootstrap, "ran", answering("no such version", 1))
    assert bootstrap.with_cpu_torch(lock, {}) is None


def test_installs_only_when_a_lock_has_changed(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(bootstrap, "install", asked.append)
    bootstrap.ensure("local-cpu")
    bootstrap.STAMP.write_text(json.dumps({"local-cpu": bootstrap.digest("local-cpu")}))
    bootstrap.ensure("local-cpu")
    bootstrap.ensure("dev")
    bootstrap.STAMP.write_text("half a fi")
    bootstrap.ensure("local-cpu")
    assert asked == ["local-cpu", "dev", "local-cpu"]


def test_a_failed_step_ends_with_its_last_lines(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "ran", answering("ERROR: no space left on device", 1))
    with pytest.raises(SystemExit, match=r"installing Shoal failed(.|\n)*no space left"):
        bootstrap.must(["pip", "install"], "installing Shoal")


def test_the_example_is_there(bootstrap: ModuleType) -> None:
    assert (ROOT / bootstrap.EXAMPLE).exists()
