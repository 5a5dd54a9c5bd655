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


def prepare(build: Build, image: Image, tools: Path, shoal: Path) -> None:
    """Lay out an image's context: lock, packages, installer, Shoal.

    Args:
        build: how images are built.
        image: which.
        tools: folder of the installer.
        shoal: Shoal's wheel.
    """
    context = build.context(image)
    for name in ("packages", "shoal"):
        (context / name / "tools").mkdir(parents=True, exist_ok=True)
        shutil.copy2(HERE / "install.py", context / name)
        for path in tools.iterdir():
            shutil.copy2(path, context / name / "tools")
    (context / "packages" / "wheels").mkdir(exist_ok=True)
    for old in (context / "shoal").glob("shoal-*.whl"):
        old.unlink()
    shutil.copy2(shoal, context / "shoal")
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


def before(image: Image, wanted: list[Image]) -> list[str]:
    """The images, by name, that must be built before another one.

    Beside its parent that is an image which holds the same: built at once, both would write the same layer twice.
    """
    earlier = wanted[: wanted.index(image)]
    same = [each.name for each in earlier if not (image.own or each.own) and each.parent == image.parent]
    return [each.name for each in earlier if each.name == image.parent] + same


def build_all(build: Build, wanted: list[Image], images: dict[str, Image]) -> None:
    """Build images, two at a time: half of a build is a single thread that writes a layer.

    Args:
        build: how.
        wanted: which, parents first.
        images: all, by name.
    """
    tools = build.folder / "tools"
    say("fetching the installer" if build.online else "fetching packages")
    prepare_tools(tools)
    shoal = wheels.build_shoal(build.folder / "shoal")
    done: dict[str, Future[None]] = {}

    def one(image: Image, ready: Future[None]) -> None:
        # Futures of earlier images: they were handed out first, so that no two threads wait for each other.
        for future in (ready, *(done[name] for name in before(image, wanted))):
            future.result()
        build_one(build, image, images)

    with ThreadPoolExecutor(max_workers=2) as fetching, ThreadPoolExecutor(max_workers=2) as building:
        try:
            for image in wanted:
                done[image.name] = building.submit(one, image, fetching.submit(prepare, build, image, tools, shoal))
            for future in done.values():
                future.result()
        finally:
            fetching.shutdown(cancel_futures=True)
            building.shutdown(cancel_futures=True)
