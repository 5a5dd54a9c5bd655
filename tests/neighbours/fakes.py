"""Neighbours that a test says are installed."""

from collections.abc import Callable, Iterable
from typing import Any, cast

from shoal.builders.images import Images
from shoal.kube.client import KubeClient
from shoal.kube.discovery import Discovery
from shoal.kube.resources import Resource
from shoal.neighbours.neighbour import Neighbour, Surroundings
from shoal.neighbours.registry import NEIGHBOURS, Neighbourhood
from tests.engine.fake_clock import FakeClock


class FakeDiscovery:
    """Finds the neighbours of the names in `there`, in the version that Shoal likes best."""

    def __init__(self, *there: str) -> None:
        self.there = set(there)

    def available(self, name: str) -> bool:
        return name in self.there

    def resource(self, name: str, plural: str) -> Resource | None:
        needs = {each.need.name: each.need for each in NEIGHBOURS}
        return needs[name].resources(needs[name].versions[0]).get(plural) if name in self.there else None

    def by_kind(self, kind: str) -> Resource | None:
        served = (need.resources(need.versions[0]) for need in (each.need for each in NEIGHBOURS))
        found = (resource for each in served for resource in each.values() if resource.kind == kind)
        names = {kind.kind: each.need.name for each in NEIGHBOURS for kind in each.need.kinds}
        return next(found, None) if names.get(kind) in self.there else None

    def on_change(self, _: Callable[[], None]) -> None:
        pass


def neighbourhood(
    discovery: FakeDiscovery | None = None, neighbours: Iterable[type[Neighbour]] = NEIGHBOURS
) -> Neighbourhood:
    """Neighbours without an API server."""
    found = cast(Discovery, discovery or FakeDiscovery())
    return Neighbourhood(Surroundings(cast(KubeClient, cast(Any, None)), found, Images("1"), FakeClock()), neighbours)
