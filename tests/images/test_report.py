"""Sizes, and the archive of several images."""

import json
import tarfile
from pathlib import Path

from images.archive import CONTAINERD, REFERENCE, identity, named, pack
from images.plan import Image
from images.report import size_of, table

ONE = Image("core", "core.Containerfile", "", {}, {}, False)
TWO = Image("operator", "operator.Containerfile", "core", {}, {}, True)
THREE = Image("agent", "agent.Containerfile", "core", {}, {}, True)


def test_sizes_of_docker_and_of_buildah() -> None:
    assert size_of([{"Size": 5, "RootFS": {}}]) == 5
    assert size_of({"Manifest": json.dumps({"layers": [{"size": 2}, {"size": 3}]})}) == 5


def test_identities_of_docker_and_of_buildah() -> None:
    assert identity([{"Id": "sha256:a"}]) == "sha256:a"
    assert identity({"FromImageID": "a", "Manifest": "{}"}) == "a"


def test_the_table_tells_what_is_shared() -> None:
    lines = table([ONE, TWO, THREE], {"core": 100_000_000, "operator": 104_000_000, "agent": 110_000_000}).splitlines()
    assert lines[1].split() == ["(core)", "100", "MB", "100", "MB", "the", "base"]
    assert lines[2].split() == ["operator", "104", "MB", "4", "MB", "core"]
    assert lines[-1] == "2 images: 114 MB together; without shared layers 214 MB"


def test_an_archive_names_images_as_containerd_reads_them(tmp_path: Path) -> None:
    ours = {"digest": "sha256:a", "annotations": {REFERENCE: "docker.io/shoal/agent:1"}}
    other = {"digest": "sha256:b", "annotations": {REFERENCE: "docker.io/other:1"}}
    index = named({"schemaVersion": 2, "manifests": [ours, other]}, ["docker.io/shoal/agent:1"])
    assert [entry["annotations"][CONTAINERD] for entry in index["manifests"]] == ["docker.io/shoal/agent:1"]

    layout = tmp_path / "layout"
    (layout / "blobs" / "sha256").mkdir(parents=True)
    (layout / "blobs" / "sha256" / "a").write_text("{}")
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps(index))
    pack(layout, tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames()[:2] == ["oci-layout", "index.json"]
        assert "blobs/sha256/a" in tar.getnames()
