"""What the three tools are asked to do."""

from pathlib import Path

import pytest

from images.tools import TOOLS, Tool

NAME = "docker.io/shoal/agent:1"
FILE, CONTEXT = Path("images/agent.Containerfile"), Path("context")
STORE = Path("store")


def test_docker_builds() -> None:
    assert Tool("docker").build(NAME, FILE, CONTEXT, {"PARENT": "p", "SHOAL": "1"}) == [
        *("docker", "build", "-t", NAME, "-f", "images/agent.Containerfile"),
        *("--build-arg", "PARENT=p", "--build-arg", "SHOAL=1", "context"),
    ]
    assert Tool("docker").environment() == {"DOCKER_BUILDKIT": "1"}


def test_podman_builds() -> None:
    assert Tool("podman", driver="vfs").build(NAME, FILE, CONTEXT, {"SHOAL": "1"}) == [
        *("podman", "--storage-driver", "vfs", "build", "-t", NAME, "-f", "images/agent.Containerfile"),
        *("--layers", "--format", "oci", "--build-arg", "SHOAL=1", "context"),
    ]


def test_buildah_builds_without_a_container_runtime() -> None:
    tool = Tool("buildah", storage=STORE, driver="overlay")
    assert tool.build(NAME, FILE, CONTEXT, {"SHOAL": "1"}) == [
        *("buildah", "--root", "store/root", "--runroot", "store/run", "--storage-driver", "overlay"),
        *("build", "-t", NAME, "-f", "images/agent.Containerfile", "--isolation", "chroot"),
        *("--layers", "--format", "oci", "--build-arg", "SHOAL=1", "context"),
    ]


@pytest.mark.parametrize("name", ["docker", "podman"])
def test_several_images_are_saved_as_one_archive(name: str) -> None:
    (command,) = Tool(name).save(["a", "b"], Path("layout"), Path("x.tar"))
    assert command[0] == name
    assert command[-4:] == ["-o", "x.tar", "a", "b"]
    assert ("--multi-image-archive" in command) == (name == "podman")


def test_buildah_saves_into_one_layout() -> None:
    first, second = Tool("buildah").save(["a", "b"], Path("layout"), Path("x.tar"))
    assert first[-2:] == ["a", "oci:layout:a"]
    assert second[-2:] == ["b", "oci:layout:b"]
    assert first[first.index("--compression-format") + 1] == "zstd"


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_inspects_and_loads(name: str) -> None:
    tool = Tool(name)
    assert tool.inspect(NAME)[0] == name
    assert tool.inspect(NAME)[-1] == NAME
    (command,) = tool.load("base", Path("rootfs.tar"), Path("place"))
    assert command[0] == name
    assert "base" in command
