"""Sets up Shoal in .venv and runs it, with nothing beside Python 3.11 or later and a package registry that pip can reach.

    python3 bootstrap.py run [--seed N] ...   install what the example needs, then train it: `shoal run` with these options
    python3 bootstrap.py test [ARG ...]       install the development tools too, then run the tests: `pytest` with these arguments
    python3 bootstrap.py install [--dev]      install only

Everything is pinned with hashes in requirements/*.lock. A second start installs nothing unless a lock has changed.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):
    sys.exit("Shoal needs Python 3.11 or later, and this is %d.%d: start it with `python3.11 bootstrap.py ...`" % sys.version_info[:2])

import ast
import hashlib
import json
import os
import platform
import subprocess
import time
from pathlib import Path

EXAMPLE = "examples/frozenlake/job.yaml"
ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "shoal-locks.json"
LOCKS = ROOT / "requirements"
STARTED = time.monotonic()

COMPILED = ("torch", "vllm", "transformers", "ray", "numpy", "pydantic", "fastapi", "sympy", "aiohttp", "openai", "huggingface_hub")
"""Packages compiled to bytecode at installation: a dozen processes import them, and some machines forbid them to write it."""


def say(text: str) -> None:
    """One line of progress."""
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", flush=True)


def fail(text: str) -> None:
    """End with one clear line."""
    sys.exit(f"bootstrap: {text}")


def digest(lock: str) -> str:
    """What decides whether a lock is installed: its content and the Python it was installed for."""
    content = (LOCKS / f"{lock}.lock").read_bytes() + sys.version.encode() + str(VENV).encode()
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
    """The same registry, certificates and proxy for uv that pip is configured with; uv does not read pip's configuration."""
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


def install_lock(lock: str) -> None:
    """Install a lock: with uv, which downloads and unpacks in parallel, and with pip where that fails."""
    path = LOCKS / f"{lock}.lock"
    count = sum(line[:1].isalnum() for line in path.read_text().splitlines())
    say(f"installing {count} packages from requirements/{lock}.lock")
    environment = uv_environment()
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "-q", "--python", str(PYTHON), "--no-deps", "--require-hashes"]
    done = ran([*uv, "--only-binary", ":all:", "-r", str(path)], **environment)
    if done.returncode:
        say("uv could not, pip takes over: " + " ".join(done.stdout.split())[:300])
        pip = [str(PYTHON), "-m", "pip", "install", "-q", "--no-deps", "--require-hashes", "--no-compile", "-r", str(path)]
        must(pip, f"installing requirements/{lock}.lock")
    if environment.get("UV_CACHE_DIR") == str(VENV / "uv-cache"):
        ran(["rm", "-rf", str(VENV / "uv-cache")])


def install(lock: str) -> None:
    """Bring .venv to a lock: the packages, their bytecode, and Shoal itself as an editable installation."""
    make_venv()
    if lock in ("local-cpu", "dev") and (sys.platform, platform.machine()) != ("linux", "x86_64"):
        fail(f"the CPU build of vLLM exists for Linux on x86-64 only, and this is {sys.platform} on {platform.machine()}")
    say("fetching the installer")
    pip = [str(PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    must([*pip, "--require-hashes", "-r", str(LOCKS / "installer.lock")], "installing requirements/installer.lock")
    install_lock(lock)
    if any(VENV.glob("lib/python*/site-packages/torch-*.dist-info")) and not cpu_torch():
        say("the registry gave the CUDA build of torch; it does not start without its libraries (2 GB)")
        install_lock("torch-cuda")
    say("installing Shoal")
    must([*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)], "installing Shoal")
    say("compiling")
    folders = [str(folder) for name in COMPILED for folder in VENV.glob(f"lib/python*/site-packages/{name}")]
    ran([str(PYTHON), "-m", "compileall", "-q", "-j", "0", *folders], PYTHONDONTWRITEBYTECODE="")
    locks = {lock: digest(lock)} | ({"local-cpu": digest("local-cpu")} if lock == "dev" else {})
    STAMP.write_text(json.dumps(locks))
    say("installed")


def cpu_torch() -> bool:
    """Whether the torch in .venv is a CPU build."""
    return any("+cpu" in folder.name for folder in VENV.glob("lib/python*/site-packages/torch-*.dist-info"))


def ensure(lock: str) -> None:
    """Install a lock unless it is installed."""
    if installed().get(lock) != digest(lock):
        install(lock)


def main(arguments: list[str]) -> None:
    """Do what the first argument says; the rest goes to the program that follows."""
    command, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if command == "run":
        ensure("local-cpu")
        os.chdir(ROOT)
        os.execv(PYTHON, [str(PYTHON), "-m", "shoal.cli.main", "run", EXAMPLE, *rest])
    elif command == "test":
        ensure("dev")
        os.chdir(ROOT)
        os.execv(PYTHON, [str(PYTHON), "-m", "pytest", *rest])
    elif command == "install" and rest in ([], ["--dev"]):
        ensure("dev" if rest else "local-cpu")
    else:
        print(__doc__)
        sys.exit(0 if command in ("help", "-h", "--help") else 2)


if __name__ == "__main__":
    main(sys.argv[1:])
