"""Builds images in the order in which they stand on each other, while the packages of the next ones are fetched."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from images import install, wheels
from images.locks import Lock, render
from images.plan import Image, Names
from images.progress import must, say
from images.tools import Tool

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Build:
    """How images are built.

    Args:
        tool: what builds them.
        names: how they are called.
        base: the image that all stand on.
        folder: keeps contexts and packages between builds.
        online: whether the build fetches packages from an index itself.
    """

    tool: Tool
    names: Names
    base: str
    folder: Path
    online: bool

    def context(self, image: Image) -> Path:
        """The folder that an image's build may read."""
        return self.folder / self.names.accelerator / image.name


def prepare_tools(folder: Path) -> None:
    """Fetch the installer, and setuptools for packages that come as source."""
    wheels.fetch(wheels.read_lock("installer"), folder)


def packages_of(build: Build, image: Image) -> Lock:
    """What an image installs, torch in the build that suits the accelerator."""
    if build.names.accelerator != "cpu" or "torch" not in image.own:
        return image.own
    if build.online:
        return {**image.own, **wheels.read_lock("torch-cuda")}
    return wheels.for_cpu(image.own, build.context(image) / "packages" / "wheels")


def prepare(build: Build, image: Image, tools: Path) -> None:
    """Lay out an image's context: lock, packages, installer; and Shoal for a role.

    Args:
        build: how images are built.
        image: which.
        tools: folder of the installer.
    """
    context = build.context(image)
    for name in ("packages", "shoal"):
        (context / name / "tools").mkdir(parents=True, exist_ok=True)
        shutil.copy2(HERE / "install.py", context / name)
        for path in tools.iterdir():
            shutil.copy2(path, context / name / "tools")
    (context / "packages" / "wheels").mkdir(exist_ok=True)
    lock = packages_of(build, image)
    (context / "packages" / "packages.lock").write_text(render(lock))
    if not build.online:
        wheels.fetch(lock, context / "packages" / "wheels")


def arguments(build: Build, image: Image, images: dict[str, Image]) -> dict[str, str]:
    """An image's build arguments.

    Args:
        build: how images are built.
        image: which; its context is laid out.
        images: all, by name.
    """
    context = build.context(image)
    given = {"PARENT": build.names.of(images[image.parent])} if image.parent else {"BASE": build.base}
    if image.own:
        given["PACKAGES"] = install.digest(context / "packages")
    if image.role:
        given["SHOAL"] = install.digest(context / "shoal")
    if image.system:
        given["SYSTEM"] = image.system
    return given


def build_one(build: Build, image: Image, images: dict[str, Image]) -> None:
    """Build one image whose parent is built and whose context is laid out."""
    name = build.names.of(image)
    say(f"building {name} ({len(image.own)} packages of its own)")
    command = build.tool.build(name, HERE / image.containerfile, build.context(image), arguments(build, image, images))
    output = must(command, f"building {name}", build.tool.environment())
    for line in output.splitlines():
        if "cannot be imported" in line:
            say(line.strip())
        if image.name == "operator" and (found := re.search(r"packages: (.*)", line)):
            say(f"{name} holds {found[1]}")


def build_all(build: Build, wanted: list[Image], images: dict[str, Image]) -> None:
    """Build images, parents first.

    Args:
        build: how.
        wanted: which, parents first.
        images: all, by name.
    """
    tools = build.folder / "tools"
    say("fetching packages" if not build.online else "fetching the installer")
    prepare_tools(tools)
    shoal = wheels.build_shoal(build.folder / "shoal")
    with ThreadPoolExecutor(max_workers=2) as pool:
        prepared: dict[str, Future[None]] = {}
        try:
            for image in wanted:
                prepared[image.name] = pool.submit(prepare, build, image, tools)
            for image in wanted:
                prepared[image.name].result()
                if image.role:
                    place = build.context(image) / "shoal"
                    for old in place.glob("shoal-*.whl"):
                        old.unlink()
                    shutil.copy2(shoal, place)
                build_one(build, image, images)
        finally:
            pool.shutdown(cancel_futures=True)
