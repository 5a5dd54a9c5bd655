"""The command lines of buildah, docker and podman. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("buildah", "docker", "podman")


@dataclass(frozen=True)
class Tool:
    """A program that builds images.

    Args:
        name: one of `TOOLS`.
        storage: folder for buildah's and podman's images; None leaves the program's own.
        driver: their storage driver; empty leaves the program's own.
        isolation: of buildah's and podman's steps; empty is `chroot` for buildah, which then needs no container
            runtime, and podman's own choice for podman.
    """

    name: str
    storage: Path | None = None
    driver: str = ""
    isolation: str = ""

    def start(self) -> list[str]:
        """The program with the options that stand before its command."""
        words = [self.name]
        if self.name != "docker":
            if self.storage is not None:
                words += ["--root", str(self.storage / "root"), "--runroot", str(self.storage / "run")]
            if self.driver:
                words += ["--storage-driver", self.driver]
        return words

    def environment(self) -> dict[str, str]:
        """Variables that the program needs."""
        # Mounts in RUN are BuildKit's; older Dockers have it and do not use it by themselves.
        return {"DOCKER_BUILDKIT": "1"} if self.name == "docker" else {}

    def build(self, name: str, containerfile: Path, context: Path, arguments: Mapping[str, str]) -> list[str]:
        """Build one image.

        Args:
            name: whole name of the image.
            containerfile: its Containerfile.
            context: the folder that the build may read.
            arguments: build arguments.
        """
        words = [*self.start(), "build", "-t", name, "-f", str(containerfile)]
        isolation = self.isolation or ("chroot" if self.name == "buildah" else "")
        if self.name != "docker":
            words += ["--isolation", isolation] if isolation else []
            words += ["--layers", "--format", "oci"]
        for key, value in arguments.items():
            words += ["--build-arg", f"{key}={value}"]
        return [*words, str(context)]

    def inspect(self, name: str) -> list[str]:
        """Print one image's metadata as JSON."""
        command = ["inspect", "--type", "image"] if self.name == "buildah" else ["image", "inspect"]
        return [*self.start(), *command, name]

    def save(self, names: list[str], layout: Path, archive: Path) -> list[list[str]]:
        """Write images as one archive; buildah writes an OCI layout, which is packed afterwards.

        Args:
            names: whole names.
            layout: folder for buildah's layout.
            archive: the file that docker and podman write.
        """
        if self.name == "buildah":
            # The fastest zstd: gzip takes minutes for torch and vLLM, and this way cannot leave layers uncompressed.
            push = [*self.start(), "push", "-q", "--compression-format", "zstd", "--compression-level", "1"]
            push += ["--format", "oci"]
            return [[*push, name, f"oci:{layout}:{name}"] for name in names]
        if self.name == "podman":
            return [[*self.start(), "save", "-q", "--multi-image-archive", "-o", str(archive), *names]]
        return [[*self.start(), "save", "-o", str(archive), *names]]

    def load(self, name: str, archive: Path, context: Path) -> list[list[str]]:
        """Make an image of a root file system.

        Args:
            name: whole name of the image.
            archive: the root file system as a tar file, in `context`.
            context: a folder with a `Containerfile` that adds it.
        """
        if self.name == "docker":
            return [[*self.start(), "import", str(archive), name]]
        return [self.build(name, context / "Containerfile", context, {})]
