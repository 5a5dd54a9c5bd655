"""Sets up Shoal in .venv and runs it, with nothing but Python 3.11 or later and a package registry that pip can reach.

    python3 bootstrap.py run [--seed N] ...   install what the example needs, then train it (options of `shoal run`)
    python3 bootstrap.py test [ARG ...]       install the development tools too, then run the tests: all of them in
                                              parallel processes, or what options of pytest say
    python3 bootstrap.py install [--dev]      install only

Everything is pinned with hashes in requirements/*.lock. A second start installs nothing unless a lock has changed.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - an older Python has to be told, and this file to be readable for it
    sys.exit(
        "Shoal needs Python 3.11 or later, and this is " + sys.version.split()[0] + ": try `python3.11 bootstrap.py`"
    )

import ast
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

EXAMPLE = "examples/frozenlake/job.yaml"
MODEL = "models/frozenlake"
"""Where the example's manifest has its model, below the data folder."""
ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "shoal-locks.json"
LOCKS = ROOT / "requirements"
STARTED = time.monotonic()

WORKERS_PER_CPU, WORKER_GIB = 2, 2.5
"""The tests wait half of their time; a worker with the servers that it starts takes this much memory."""

UV = VENV / "bin" / "uv"
PIP = (str(PYTHON), "-m", "pip", "--disable-pip-version-check")

IMPORTED = (
    "vllm, vllm.v1.engine.async_llm, vllm.v1.engine.core, vllm.v1.worker.cpu_worker, vllm.model_executor.models.qwen3",
    "ray, ray.util.state, ray.train, transformers.models.qwen3, torch.optim, gymnasium, fastapi, uvicorn, kopf",
)
"""What the example imports, in two halves of about the same weight."""
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}


def say(text: str) -> None:
    """One line of progress."""
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", flush=True)


def fail(text: str) -> None:
    """End with one clear line."""
    sys.exit(f"bootstrap: {text}")


def digest(lock: str) -> str:
    """What decides whether a lock is installed: it, the project file (packages, entry points), the Python."""
    project = (ROOT / "pyproject.toml").read_bytes()
    content = (LOCKS / f"{lock}.lock").read_bytes() + project + sys.version.encode() + str(VENV).encode()
    return hashlib.sha256(content).hexdigest()


def installed() -> dict[str, str]:
    """Lock -> digest, as the last installation wrote it; empty without one."""
    try:
        return dict(json.loads(STAMP.read_text()))
    except (OSError, ValueError):
        return {}


def ran(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout, its output kept."""
    everything = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=ROOT, env=everything, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def must(command: list[str], doing: str, **environment: str) -> str:
    """Run a command; end with its last lines when it fails."""
    done = ran(command, **environment)
    if done.returncode:
        fail(f"{doing} failed ({' '.join(command[:6])} ...):\n" + "\n".join(done.stdout.splitlines()[-25:]))
    return done.stdout


def make_venv() -> None:
    """Create .venv unless it is there and works."""
    if PYTHON.exists() and ran([str(PYTHON), "-m", "pip", "--version"]).returncode == 0:
        return
    say("creating .venv")
    done = ran([sys.executable, "-m", "venv", "--clear", str(VENV)])
    if done.returncode:
        fail(
            "`python3 -m venv` failed. On Debian and Ubuntu it comes with the package python3-venv "
            f"(or start this with another Python).\n{done.stdout[-2000:]}"
        )


def pip_settings() -> dict[str, str]:
    """pip's own configuration (files and environment), by option; the environment wins, as it does in pip."""
    options: dict[str, str] = {}
    lines = ran([str(PYTHON), "-m", "pip", "config", "list"]).stdout.splitlines()
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):
        name, equals, value = line.partition("=")
        if equals and name.split(".")[0] in ("global", "install", ":env:"):
            try:
                options[name.split(".", 1)[1]] = str(ast.literal_eval(value))
            except (ValueError, SyntaxError):
                continue
    return options


def uv_environment() -> dict[str, str]:
    """pip's registry, certificates and proxy in uv's words; uv does not read pip's configuration."""
    options = pip_settings()
    environment = {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_NO_PROGRESS": "1", "UV_HTTP_TIMEOUT": "180"}
    for option, name, separator in (
        ("index-url", "UV_DEFAULT_INDEX", " "),
        ("extra-index-url", "UV_INDEX", " "),
        ("find-links", "UV_FIND_LINKS", ","),
        ("cert", "SSL_CERT_FILE", " "),
        ("proxy", "ALL_PROXY", " "),
        ("trusted-host", "UV_INSECURE_HOST", " "),
        ("no-index", "UV_NO_INDEX", " "),
    ):
        if options.get(option) and name not in os.environ:
            environment[name] = separator.join(options[option].split())
    if "UV_CACHE_DIR" not in os.environ:
        # Beside the packages, so that they are linked and not copied; it is removed afterwards.
        environment["UV_CACHE_DIR"] = str(VENV / "uv-cache")
    return environment


def install_lock(path: Path, environment: dict[str, str]) -> None:
    """Install a lock: with uv, which downloads and unpacks in parallel, and with pip where that fails."""
    count = sum(line[:1].isalnum() for line in path.read_text().splitlines())
    say(f"installing {count} packages of {path.name}")
    # No build isolation: the few packages that come as source are built with the locked setuptools.
    options = ["-q", "--no-deps", "--require-hashes", "--no-build-isolation", "-r", str(path)]
    done = ran([str(UV), "pip", "install", "--python", str(PYTHON), *options], **environment)
    if done.returncode:
        say("uv could not, so pip does it: " + " ".join(done.stdout.split())[:300])
        must([*PIP, "install", "--no-compile", *options], f"installing {path.name}")


def with_cpu_torch(path: Path, environment: dict[str, str]) -> Path | None:
    """The lock with torch's CPU build in place of the registry's build; None where no CPU build is to be had.

    A lock that names `torch==2.13.0` allows both builds, but with hashes pip prefers the registry's, and uv takes none.
    """
    text = path.read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("torch==")]
    release = line.removesuffix("\\").strip()
    probe = ["install", "-q", "--dry-run", "--no-deps", f"{release}+cpu"]
    commands = ([str(UV), "pip", *probe, "--python", str(PYTHON)], [*PIP, *probe])
    if all(ran(command, **environment).returncode for command in commands):
        return None
    chosen = VENV / path.name
    chosen.write_text(text.replace(line, line.replace(release, f"{release}+cpu")))
    return chosen


def install_packages(lock: str) -> None:
    """Install the packages of a lock, with the right build of torch."""
    path = LOCKS / f"{lock}.lock"
    environment = uv_environment()
    try:
        chosen = with_cpu_torch(path, environment)
        install_lock(chosen or path, environment)
        if chosen is None:
            say("this registry has torch as its CUDA build, which does not start without its libraries (2 GB)")
            install_lock(LOCKS / "torch-cuda.lock", environment)
    finally:
        shutil.rmtree(VENV / "uv-cache", ignore_errors=True)


def install(lock: str) -> None:
    """Bring .venv to a lock: the packages, Shoal itself as an editable installation, bytecode of what it imports."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        fail(f"the locks are for Linux on x86-64, and this is {sys.platform} on {platform.machine()}")
    make_venv()
    say("fetching the installer")
    locked = ["--no-deps", "--require-hashes", "-r", str(LOCKS / "installer.lock")]
    must([*PIP, "install", "-q", *locked], "fetching the installer")
    install_packages(lock)
    say("installing Shoal")
    must([*PIP, "install", "-q", "--no-deps", "--no-build-isolation", "-e", str(ROOT)], "installing Shoal")
    say("compiling what the first start imports")
    compile_imports()
    locks = {lock: digest(lock)} | ({"local-cpu": digest("local-cpu")} if lock == "dev" else {})
    STAMP.write_text(json.dumps(locks))
    say("installed")


def compile_imports() -> None:
    """Import what the example imports, in processes that may write bytecode.

    A dozen processes import these packages at once at the first start, and on a machine that forbids bytecode
    (PYTHONDONTWRITEBYTECODE) each of them would compile them again, every time.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    running = [
        subprocess.Popen(
            [str(PYTHON), "-c", f"import {modules}"],
            cwd=VENV, env=environment | QUIET, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for modules in IMPORTED
    ]  # fmt: skip
    for process in running:
        process.wait()


def ensure(lock: str) -> None:
    """Install a lock unless it is installed."""
    if installed().get(lock) != digest(lock):
        install(lock)


def build_model(arguments: list[str]) -> None:
    """Make the policy that the example starts from, unless it is there: random weights that know the format."""
    model = data_dir(arguments) / MODEL
    say(f"the example's model: {model}")
    must([str(PYTHON), "examples/frozenlake/build_model.py", "--out", str(model)], "building the model", **QUIET)


def data_dir(arguments: list[str]) -> Path:
    """The folder that `shoal run` with these arguments takes for its data."""
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--data-dir":
            return Path(value if equals else "".join(arguments[index + 1 : index + 2]) or ".").absolute()
    code = "from shoal.cli.options import default_data_dir as folder; print(folder())"
    return Path(must([str(PYTHON), "-c", code], "looking for a data folder").splitlines()[-1])


def test_workers() -> int:
    """How many processes run the tests: as many as this machine's processors and memory carry."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(WORKERS_PER_CPU * len(os.sched_getaffinity(0)), int(memory / WORKER_GIB)))


def main(arguments: list[str]) -> None:
    """Do what the first argument says; the rest goes to the program that follows."""
    command, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if command == "run":
        ensure("local-cpu")
        build_model(rest)
        os.chdir(ROOT)
        os.execv(PYTHON, [str(PYTHON), "-m", "shoal.cli.main", "run", EXAMPLE, *rest])
    elif command == "test":
        ensure("dev")
        os.chdir(ROOT)
        os.execv(PYTHON, [str(PYTHON), "-m", "pytest", *(rest or ["-n", str(test_workers())])])
    elif command == "install" and rest in ([], ["--dev"]):
        ensure("dev" if rest else "local-cpu")
    else:
        print(__doc__)
        sys.exit(0 if command in ("help", "-h", "--help") else 2)


if __name__ == "__main__":
    main(sys.argv[1:])
