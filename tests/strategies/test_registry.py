"""Strategies of one's own: found by entry point or class, refused by field path with what exists."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest
from pydantic import Field

from shoal.api.services.common import StrategyConfig
from shoal_workers.service import ConfigurationError
from shoal_workers.strategies import NamedStrategy, Registry
from shoal_workers.strategies import registry as registry_module


class Choice(NamedStrategy):
    """An interface for tests."""


class Coin(Choice):
    """A strategy with two parameters."""

    heads_share: float = Field(0.5, ge=0, le=1)
    sides: int = 2


class FakeDistribution:
    name = "Acme_RL"


GROUP = "shoal.test.choice"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry[Choice]:
    points = [EntryPoint("coin", f"{__name__}:Coin", GROUP), EntryPoint("own", f"{__name__}:Coin", GROUP)]
    own = points[1]._for(FakeDistribution())  # type: ignore[attr-defined]

    def installed(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
        return (points[0], own) if group == GROUP else ()

    monkeypatch.setattr(registry_module, "_installed", installed)
    return Registry(GROUP, "spec.choice", Choice)


@pytest.mark.parametrize("name", ["coin", "acme-rl:own", f"{__name__}:Coin"])
def test_a_strategy_is_found_by_entry_point_distribution_or_class(registry: Registry[Choice], name: str) -> None:
    assert registry.create(name, {"headsShare": 0.25}) == Coin(heads_share=0.25)


REFUSED = [
    ("cion", {}, "spec.choice.name", "'cion' is not known; there are: coin, own"),
    ("coin", {"headsShare": 2}, "spec.choice.parameters.headsShare", "less than or equal to 1"),
    ("coin", {"headShare": 1}, "spec.choice.parameters.headShare", "parameters of coin: headsShare, sides"),
    ("nowhere.to.be:Found", {}, "spec.choice.name", "No module named 'nowhere'"),
    (f"{__name__}:Dice", {}, "spec.choice.name", "has no attribute 'Dice'"),
    (f"{__name__}:FakeDistribution", {}, "spec.choice.name", "is no Choice"),
    ("not a module:Name", {}, "spec.choice.name", "not a module:Name"),
    ("coin:", {}, "spec.choice.name", "'coin:' is not known"),
]


@pytest.mark.parametrize(("name", "parameters", "field", "cause"), REFUSED)
def test_what_is_wrong_is_named(
    registry: Registry[Choice], name: str, parameters: dict[str, object], field: str, cause: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        registry.create(name, parameters)
    assert caught.value.field == field
    assert cause in caught.value.cause


def test_a_list_item_is_named_by_its_own_path(registry: Registry[Choice]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        registry.build(StrategyConfig(name="none"), "spec.choices[2]")
    assert caught.value.field == "spec.choices[2].name"


def test_a_module_that_fails_on_import_is_a_wrong_name(registry: Registry[Choice]) -> None:
    sys.modules["broken_by_test"] = ModuleType("broken_by_test")
    with pytest.raises(ConfigurationError, match=r"spec\.choice\.name"):
        registry.create("broken_by_test:Gone", {})


def test_what_is_installed_is_read_once_for_each_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def entry_points(group: str) -> list[EntryPoint]:
        read.append(group)
        return [EntryPoint("coin", f"{__name__}:Coin", group)]

    monkeypatch.setattr(registry_module, "entry_points", entry_points)
    group = f"{GROUP}.read-once"
    assert [registry_module.names(group) for _ in range(3)] == [["coin"]] * 3
    assert read == [group]
    monkeypatch.syspath_prepend("/added/later")
    registry_module.names(group)
    assert read == [group, group]
