"""`python -m images build`: every image, or those of the roles named, with buildah, docker or podman."""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path

from images import archive, base, report, wheels
from images.build import Build, build_all
from images.plan import ACCELERATORS, DEFAULT_BASE, ROLES, Names, chosen, lock_files, plan
from images.progress import BuildError, need, say
from images.tools import TOOLS, Tool

ROOT = Path(__file__).resolve().parents[1]
EPILOG = """\
Here, without a registry: python -m images build --tool buildah --base mmdebstrap --accelerator cpu --output DIR
Then: ctr -n k8s.io images import DIR/shoal.tar (or: kind load image-archive DIR/shoal.tar)
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(prog="python -m images", description="Shoal's container images.")
    commands = whole.add_subparsers(dest="command", required=True)
    build = commands.add_parser(
        "build", help="build images", description=__doc__, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = build.add_argument
    add("roles", nargs="*", metavar="role", help=f"all of {', '.join(ROLES)} when none is named")
    add("--tool", choices=TOOLS, default="docker", help="what builds (default: %(default)s)")
    add("--prefix", default="shoal", help="what stands before the role in the names (default: %(default)s)")
    add("--tag", default=project_version(), help="the images' tag (default: the version, %(default)s)")
    add("--base", default=DEFAULT_BASE, metavar="IMAGE",
        help="what all stand on: a Debian bookworm with Python 3.11; the word `mmdebstrap` makes one of Debian's "
        "packages where no registry can be reached (default: %(default)s)")  # fmt: skip
    add("--accelerator", choices=ACCELERATORS, default="gpu",
        help="gpu: CUDA builds of torch and vLLM, also when this machine has no GPU; cpu: CPU builds, vLLM's from a "
        "third party; it decides the images rollout and trainer alone (default: %(default)s)")  # fmt: skip
    add("--output", type=Path, metavar="DIR", help="also write the images as one archive, DIR/shoal.tar")
    add("--cache", type=Path, metavar="DIR", default=ROOT / "build" / "images",
        help="keeps downloaded packages between builds (default: build/images)")  # fmt: skip
    add("--online", action="store_true", help="fetch packages inside the build, from the index that pip has there")
    add("--storage", type=Path, metavar="DIR", help="where buildah and podman keep images (default: their own place)")
    add("--storage-driver", default="", metavar="NAME", help="overlay, or vfs where overlay does not work")
    add("--isolation", default="", metavar="KIND",
        help="of buildah's and podman's steps; chroot, buildah's default here, needs no container runtime")  # fmt: skip
    return whole


def project_version() -> str:
    """Shoal's version in pyproject.toml."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def check(options: argparse.Namespace) -> None:
    """Fail early on what cannot work."""
    unknown = sorted(set(options.roles) - set(ROLES))
    if unknown:
        raise BuildError(f"no role is called {', '.join(unknown)}: choose of {', '.join(ROLES)}")
    others = " or ".join(tool for tool in TOOLS if tool != options.tool)
    need(options.tool, f"install it, or choose --tool {others}")
    wheels.check_python(online=options.online)


def build(options: argparse.Namespace) -> None:
    """`build`: the images, their sizes, the archive."""
    check(options)
    tool = Tool(options.tool, options.storage, options.storage_driver, options.isolation)
    accelerator = options.accelerator
    images = plan({name: wheels.read_lock(name) for name in lock_files(accelerator)}, accelerator)
    wanted = chosen(images, tuple(options.roles))
    if {"rollout", "trainer"} & {image.name for image in wanted}:
        say(f"torch and vLLM are built for {accelerator.upper()} (--accelerator {accelerator})")
    names = Names(options.prefix, options.tag, accelerator)
    under = base.make(tool, options.cache) if options.base == "mmdebstrap" else options.base
    build_all(Build(tool, names, under, options.cache, options.online), wanted, images)
    print(report.table(wanted, report.sizes(tool, {image.name: names.of(image) for image in wanted})))
    if options.output:
        archive.write(tool, [names.of(image) for image in wanted if image.role], options.output)
    say("built")


def main() -> None:
    """Run the command; a failure is one message and status 1."""
    try:
        build(parser().parse_args())
    except BuildError as failure:
        sys.exit(f"images: {failure}")


if __name__ == "__main__":
    main()
