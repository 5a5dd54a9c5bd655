"""The Containerfiles: pinned, without root, in the order that keeps code's changes small, and as the plan says."""

import importlib.util
import json
import re

import pytest

from images.plan import DEFAULT_BASE, ML_LIBRARIES, ROLES, USER, plan
from images.wheels import read_lock
from shoal.api.labels import PORTS
from shoal.builders.images import Images
from tests.images.containerfiles import FOLDER, Instruction, read

FILES = sorted(path.name for path in FOLDER.glob("*.Containerfile"))
ROLE_FILES = [f"{role}.Containerfile" for role in ROLES]
IMAGES = plan(
    {name: read_lock(name) for name in ("operator", "environments", "agents", "rollout-gpu", "trainer-gpu")}, "gpu"
)


def runs(name: str) -> list[Instruction]:
    return [each for each in read(name) if each.word == "RUN"]


def test_every_file_is_an_image_of_the_plan() -> None:
    assert {image.containerfile for image in IMAGES.values()} == set(FILES)


def test_every_image_that_pods_are_built_with_is_made() -> None:
    assert {Images(tag="x").of(role) for role in PORTS if role in ("environment", "broker", "gateway", "data")} <= {
        f"shoal/{role}:x" for role in ROLES
    }


@pytest.mark.parametrize("name", FILES)
def test_stands_on_what_the_build_names(name: str) -> None:
    first, second = read(name)[:2]
    assert second.word == "FROM"
    if name == "core.Containerfile":
        assert first.rest == f"BASE={DEFAULT_BASE}"
        assert second.rest == "${BASE}"
    else:
        assert (first.word, first.rest, second.rest) == ("ARG", "PARENT", "${PARENT}")


def test_the_default_base_is_pinned() -> None:
    assert re.fullmatch(r"docker\.io/library/python:3\.11\.\d+-slim-bookworm", DEFAULT_BASE)


@pytest.mark.parametrize("name", FILES)
def test_reads_only_mounted_files_whose_digest_it_is_given(name: str) -> None:
    """Builders do not look into a mount for their cache, so a step without the digest would never be built again."""
    before: list[str] = []
    for each in read(name):
        if each.word == "ARG":
            before.append(each.rest.partition("=")[0])
        for mount in each.mounts():
            assert mount == {"type": "bind", "source": mount["source"], "target": "/context"}
            assert mount["source"] == before[-1].lower()
            assert f'install.py {before[-1].lower()} --digest "${{{before[-1]}}}"' in each.rest


@pytest.mark.parametrize("name", ROLE_FILES)
def test_a_role_ends_with_shoal_and_without_root(name: str) -> None:
    *_, run, user, command = read(name)
    assert run.mounts() == [{"type": "bind", "source": "shoal", "target": "/context"}]
    assert user == Instruction("USER", f"{USER}:{USER}")
    words = json.loads(command.rest)
    assert words == ["shoal", "operator"] or importlib.util.find_spec(words[2])


@pytest.mark.parametrize("name", ROLE_FILES)
def test_a_role_installs_packages_exactly_where_it_has_some_of_its_own(name: str) -> None:
    steps = [mount["source"] for run in runs(name) for mount in run.mounts()]
    own = IMAGES[name.removesuffix(".Containerfile")].own
    assert steps == (["packages", "shoal"] if own else ["shoal"])


def test_the_operators_build_refuses_learning_libraries() -> None:
    assert f'--without "{" ".join(ML_LIBRARIES)}"' in runs("operator.Containerfile")[-1].rest


def test_nothing_is_kept_in_a_home_that_is_read_only() -> None:
    (environment,) = [each.rest for each in read("core.Containerfile") if each.word == "ENV"]
    assert "HOME=/tmp " in environment
    assert "PYTHONDONTWRITEBYTECODE=1" in environment
    (run,) = runs("core.Containerfile")
    assert f"shoal:x:{USER}:{USER}:shoal:/tmp:" in run.rest


def test_system_packages_come_only_where_the_plan_names_them() -> None:
    assert [name for name in FILES if any(each.rest.startswith("SYSTEM") for each in read(name))] == [
        image.containerfile for image in IMAGES.values() if image.system
    ]
