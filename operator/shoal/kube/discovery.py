"""Which other operators are installed, by the custom resources that the API server serves.

Asked through discovery (`/apis`), which every account may read and every API server answers. A neighbour may be
installed or removed at any time, so the answer is asked for again and again; between two looks it costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from shoal.kube.client import KubeClient
from shoal.kube.errors import ApiError, NotFoundError
from shoal.kube.resources import Json, Resource

log = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
"""How late a neighbour's arrival is noticed at worst. One small request each time while nobody is there."""
DOUBT_SECONDS = 5.0
"""When to look again after something failed or went missing."""
MISSED_LOOKS = 2
"""Looks in a row that must miss a neighbour before it counts as gone: an API server that starts answers for a moment
as if no custom resource existed, and jobs must not stop for that."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of a neighbour's that Shoal reads or writes."""

    plural: str
    kind: str
    namespaced: bool = True


@dataclass(frozen=True, slots=True)
class Need:
    """What must be served for a neighbour to count as there: these kinds, all in one of these versions (best first)."""

    name: str
    """The neighbour's name, by which permissions, logs and the chart know it."""
    group: str
    versions: tuple[str, ...]
    kinds: tuple[Kind, ...]

    def resources(self, version: str) -> dict[str, Resource]:
        """The kinds by plural, as resources of one version."""
        return {
            kind.plural: Resource(self.group, version, kind.plural, kind.kind, kind.namespaced) for kind in self.kinds
        }


Found = dict[str, dict[str, Resource]]
"""The neighbours that are there by name, with their resources by plural, in the version to speak."""


async def discover(client: KubeClient, needs: Sequence[Need]) -> Found:
    """Ask once for these neighbours; one that is absent is not in the answer.

    Raises `ApiError` when the server cannot say.
    """
    groups = {group["name"]: group for group in (await client.get_path("/apis")).get("groups") or []}
    found: Found = {}
    for need in needs:
        served = [each["version"] for each in groups.get(need.group, {}).get("versions") or []]
        for version in need.versions:
            if version in served and await _serves(client, need, version):
                found[need.name] = need.resources(version)
                break
    return found


async def _serves(client: KubeClient, need: Need, version: str) -> bool:
    try:
        listed: Json = await client.get_path(f"/apis/{need.group}/{version}")
    except NotFoundError:  # removed between the two questions
        return False
    names = {each["name"] for each in listed.get("resources") or []}
    return all(kind.plural in names for kind in need.kinds)


class Discovery:
    """Remembers which neighbours are there and asks again while `run` runs."""

    def __init__(
        self,
        client: KubeClient,
        needs: Sequence[Need],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.looked = asyncio.Event()
        """Set once the server has answered for the first time; before that nobody is there."""
        self._client = client
        self._needs = tuple(needs)
        self._sleep = sleep
        self._found: Found = {}
        self._missed: dict[str, int] = {}
        self._observers: list[Callable[[], None]] = []
        self._complained = False

    def available(self, neighbour: str) -> bool:
        """Whether this neighbour's resources can be read and written."""
        return neighbour in self._found

    def resource(self, neighbour: str, plural: str) -> Resource | None:
        """The neighbour's resource in the version that the server serves, or None while it is not there."""
        return self._found.get(neighbour, {}).get(plural)

    def by_kind(self, kind: str) -> Resource | None:
        """As `resource`, found by the kind's name."""
        served = (resource for resources in self._found.values() for resource in resources.values())
        return next((resource for resource in served if resource.kind == kind), None)

    def on_change(self, observer: Callable[[], None]) -> None:
        """Have `observer` called after neighbours came, went or changed their version."""
        self._observers.append(observer)

    async def run(self) -> None:
        """Look until cancelled. An API server that does not answer changes nothing."""
        while True:
            certain = await self.look()
            await self._sleep(LOOK_SECONDS if certain else DOUBT_SECONDS)

    async def look(self) -> bool:
        """Look once; returns whether the answer is certain (the server spoke, and nobody has just gone missing)."""
        try:
            fresh = await discover(self._client, self._needs)
        except ApiError as error:
            if not self._complained:
                log.warning("cannot see which operators are installed, retrying: %s", error)
            self._complained = True
            return False
        self._complained = False
        certain = self._keep_doubtful(fresh)
        first = not self.looked.is_set()
        before, self._found = self._found, fresh
        self.looked.set()
        if first or before != fresh:
            self._tell(before)
        return certain

    def _keep_doubtful(self, fresh: Found) -> bool:
        """Add to `fresh` the neighbours that may only be hidden; returns whether there are none."""
        missing = [neighbour for neighbour in self._found if neighbour not in fresh]
        self._missed = {neighbour: self._missed.get(neighbour, 0) + 1 for neighbour in missing}
        doubtful = [neighbour for neighbour, looks in self._missed.items() if looks < MISSED_LOOKS]
        fresh.update({neighbour: self._found[neighbour] for neighbour in doubtful})
        return not doubtful

    def _tell(self, before: Found) -> None:
        for neighbour in (need.name for need in self._needs):
            if (neighbour in before) != (neighbour in self._found):
                log.info("%s is %s", neighbour, "there" if neighbour in self._found else "gone")
        for observer in self._observers:
            observer()
