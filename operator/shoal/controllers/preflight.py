"""Whether the cluster gives the operator what it needs: definitions, their fields, permissions.

Looked at when the operator starts, whenever the API server refuses something, and every few seconds while anything is
missing. What is missing is logged once, in one message that says how to mend it; it stands in `/readyz` and as
`Degraded` on every object that it hinders. What does not need it goes on, and the rest by itself once it is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import BaseModel

from shoal.api.tolerant import part
from shoal.controllers.definitions import Lack, find_lack
from shoal.controllers.job import OPERATOR
from shoal.controllers.review import Gap, Places, account, describe, find_gaps
from shoal.controllers.status import StatusWriter
from shoal.controllers.trouble import (
    DEFINITION_MISSING,
    DEFINITION_OUTDATED,
    PERMISSION_MISSING,
    REFUSED,
    Trouble,
    TroubleOverlay,
    held,
)
from shoal.engine.clock import Clock
from shoal.engine.manager import Manager
from shoal.engine.store import Store
from shoal.kube.client import KubeClient
from shoal.kube.discovery import Discovery
from shoal.kube.errors import ApiError, ForbiddenError, NotFoundError
from shoal.kube.permissions import FOLLOW, Rule
from shoal.kube.resources import LEASES, SHOAL_GROUP, Resource

log = logging.getLogger(__name__)
Json = dict[str, Any]

LOOK_SECONDS = 3.0
"""How soon the operator goes on at best once what was missing is there."""
CALM_SECONDS = 300.0
"""Between looks while all is well: a definition may be replaced by an older one without any refusal."""
MISSED_LOOKS = 2
"""Looks in a row that must miss a definition that was there: an API server that starts serves none for a moment."""
REREAD_SECONDS = 30.0
NAMED = 6
"""Fields, or resources not allowed, named in a message before "and N more"."""
APPLY_DEFINITIONS = "shoal crds | kubectl apply --server-side -f -"
GRANT = "upgrade the release of chart shoal with rbac.create=true, or grant them to it"


@dataclass(frozen=True)
class Kind:
    """One of our resources: its API, model, cache and controller, and the resources whose caches that needs."""

    resource: Resource
    model: type[BaseModel]
    store: Store[Json]
    controller: str
    needs: frozenset[Resource]


class Preflight:
    """Looks, tells, holds the controllers that cannot work, and lets them go on."""

    def __init__(
        self,
        client: KubeClient,
        manager: Manager,
        kinds: Sequence[Kind],
        status: StatusWriter,
        discovery: Discovery,
        rules: Callable[[], list[Rule]],
        places: Places,
        clock: Clock,
        *,
        elects: bool,
        wake: Callable[[], None],
    ) -> None:
        self._client, self._manager, self._status = client, manager, status
        self._kinds = {kind.resource.plural: kind for kind in kinds}
        self._discovery, self._places, self._clock = discovery, places, clock
        self._granted = rules
        self._elects = elects
        self._wake = wake
        self._overlay = TroubleOverlay(clock.wall)
        self._lack = Lack()
        self._misses: dict[str, int] = {}
        self._served: set[str] = set()
        self._who = ""
        self._gaps: list[Gap] = []
        self._review = True
        self._refused: dict[str, ApiError] = {}
        self._puzzled = 0
        self._asked = asyncio.Event()
        status.overlay = self._overlay
        manager.add_troubles(lambda: [trouble.message for trouble in self.troubles if trouble.kinds])
        manager.explain(self.explains)
        needed = {need for kind in kinds for need in kind.needs}
        self._reflectors = [each for each in manager.reflectors if each.resource in needed]
        for reflector in self._reflectors:
            reflector.on_refusal(partial(self._refuse, str(reflector.resource)))

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """What hinders the operator now, as far as was seen."""
        return self._overlay.troubles

    def explains(self, error: Exception) -> bool:
        """Whether a standing trouble explains this error; one that none does is looked into."""
        reasons = {trouble.reason for trouble in self.troubles}
        if isinstance(error, NotFoundError) and DEFINITION_MISSING in reasons:
            return True
        if not isinstance(error, ForbiddenError) or " cannot " not in error.message:
            return False  # a quota's or an admission plug-in's refusal is no missing permission
        self._review = True
        self._asked.set()
        return PERMISSION_MISSING in reasons

    async def run(self) -> None:
        """Look until cancelled."""
        await self._discovery.looked.wait()
        while True:
            self._asked.clear()
            with suppress(ApiError, ExceptionGroup, TimeoutError):
                await self.look()
            if not self._doubtful():
                with suppress(TimeoutError):
                    async with asyncio.timeout(CALM_SECONDS):
                        await self._asked.wait()
            await self._clock.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once and act on it. Raises `ApiError` when the server cannot say; then what was seen last stands."""
        self._lack = self._certain(await find_lack(self._client, {name: k.model for name, k in self._kinds.items()}))
        if self._gaps and not self._review:
            self._gaps = await find_gaps(self._client, {gap.rule for gap in self._gaps}, self._places)
        if self._review:
            self._gaps = await find_gaps(self._client, self._rules(), self._places)
            self._review = False
        if self._gaps and not self._who:
            self._who = await account(self._client)
        await self._act(tuple(self._judge()))
        await self._tell()

    # --- judging

    def _certain(self, lack: Lack) -> Lack:
        """Without the definitions that may only be hidden for a moment."""
        self._misses = {name: self._misses.get(name, 0) + 1 for name in lack.missing}
        self._served |= self._kinds.keys() - lack.missing
        return Lack(frozenset(name for name in lack.missing if self._is_gone(name)), lack.fields)

    def _is_gone(self, name: str) -> bool:
        return name not in self._served or self._misses[name] >= MISSED_LOOKS

    def _doubtful(self) -> bool:
        """Whether to look again soon."""
        hindered = any(trouble.kinds for trouble in self.troubles)
        return hindered or bool(self._misses) or self._review or self._puzzled > 0

    def _rules(self) -> list[Rule]:
        return [rule for rule in self._granted() if self._elects or LEASES.plural not in rule.resources]

    def _judge(self) -> list[Trouble]:
        troubles = []
        if self._lack.missing:
            troubles.append(self._missing(self._lack.missing))
        if self._lack.fields:
            troubles.append(self._outdated(self._lack.fields))
        for gaps in (
            [gap for gap in self._gaps if not gap.rule.when],
            [gap for gap in self._gaps if gap.rule.when],
        ):
            if gaps:
                troubles.append(self._denied(gaps))
        unread = [str(each.resource) for each in self._reflectors if not each.synced.is_set()]
        refused = [self._refused[name] for name in unread if name in self._refused]
        self._puzzled = self._puzzled + 1 if refused and not troubles else 0
        if self._puzzled >= MISSED_LOOKS:
            # Neither missing nor denied, so nobody but the server can say what it is.
            everyone = frozenset(self._kinds)
            troubles.append(Trouble(REFUSED, f"the API server refuses: {refused[0].message}", everyone))
        return troubles

    def _missing(self, missing: frozenset[str]) -> Trouble:
        names = ", ".join(f"{name}.{SHOAL_GROUP}" for name in sorted(missing))
        hindered = self._needing(lambda need: need.group == SHOAL_GROUP and need.plural in missing)
        message = f"custom resource definitions are missing: {names}. Install them: {APPLY_DEFINITIONS}"
        return Trouble(DEFINITION_MISSING, message, hindered, hindered)

    def _outdated(self, fields: Mapping[str, tuple[str, ...]]) -> Trouble:
        parts = [f"{plural}.{SHOAL_GROUP} lacks {_some(paths)}" for plural, paths in sorted(fields.items())]
        message = (
            f"custom resource definitions are older than this operator: {'; '.join(parts)}. "
            f"What is written there is dropped. Upgrade them: {APPLY_DEFINITIONS}"
        )
        return Trouble(DEFINITION_OUTDATED, message, frozenset(fields))

    def _denied(self, gaps: Sequence[Gap]) -> Trouble:
        who = self._who or "the account of the operator"
        message = f"{who} lacks permissions {describe(gaps, NAMED)}. To mend it, {GRANT}"
        kinds = [self._hindered(gap) for gap in gaps]
        # Who cannot see would act blindly; and where the lease may not be had, nobody acts at all.
        holds = [self._hindered(gap) for gap in gaps if _blinds(gap) or _of_lease(gap)]
        return Trouble(PERMISSION_MISSING, message, frozenset().union(*kinds), frozenset().union(*holds))

    def _hindered(self, gap: Gap) -> frozenset[str]:
        if gap.rule.when:
            return frozenset()  # told of on the objects that want the neighbour, by their own plans
        plural = gap.resource.partition("/")[0]
        hindered = self._needing(lambda need: (need.group, need.plural) == (gap.rule.group, plural))
        if gap.rule.group == SHOAL_GROUP and gap.verb not in FOLLOW:
            return frozenset({plural} & self._kinds.keys())
        return hindered or frozenset(self._kinds)

    def _needing(self, match: Callable[[Resource], bool]) -> frozenset[str]:
        return frozenset(plural for plural, kind in self._kinds.items() if any(match(need) for need in kind.needs))

    # --- acting

    async def _act(self, troubles: tuple[Trouble, ...]) -> None:
        before = self._overlay.troubles
        if held(before) - held(troubles):
            await self._reread()
        self._overlay.troubles = troubles
        self._manager.hold([self._kinds[plural].controller for plural in held(troubles)])
        if before == troubles:
            return
        for trouble in troubles:
            if trouble not in before:
                log.error("%s: %s", trouble.reason, trouble.message)
        still = {trouble.reason for trouble in troubles}
        for reason in dict.fromkeys(trouble.reason for trouble in before):
            if reason not in still:
                log.info("%s: mended", reason)
        for reflector in self._reflectors:
            if not reflector.synced.is_set():
                self._refused.pop(str(reflector.resource), None)
                reflector.hurry()
        self._wake()

    async def _reread(self) -> None:
        """Bring the caches up to date that could not be followed, before anybody acts on them again.

        Raises `TimeoutError` when that takes too long; then nobody does.
        """
        stale = [each for each in self._reflectors if each.synced.is_set() and str(each.resource) in self._refused]
        async with asyncio.timeout(REREAD_SECONDS):
            await asyncio.gather(*(each.refresh() for each in stale))
        self._refused.clear()

    async def _tell(self) -> None:
        """Write the condition on objects of the kinds that are held: no plan will."""
        # Where no replica can lead for want of this very permission, each says so.
        if not self._manager.leading and not any(_of_lease(gap) for gap in self._gaps):
            return
        for plural in held(self.troubles) - self._lack.missing:
            kind = self._kinds[plural]
            for body in kind.store.values():
                ours = part(body, "spec").get("managedBy", OPERATOR) == OPERATOR
                if ours and "deletionTimestamp" not in body["metadata"]:
                    await self._tell_one(kind, body)

    async def _tell_one(self, kind: Kind, body: Json) -> None:
        try:
            await self._status.write(kind.resource, body, self._status.current(body))
        except ApiError as error:
            log.debug("cannot tell %s %s: %s", kind.resource, body["metadata"]["name"], error)

    def _refuse(self, resource: str, error: ApiError) -> None:
        self._refused[resource] = error
        self._review = self._review or isinstance(error, ForbiddenError)
        self._asked.set()


def _blinds(gap: Gap) -> bool:
    """Whether a cache cannot be kept without it; what is looked up only in trouble holds nobody."""
    return gap.verb in FOLLOW and set(FOLLOW) <= set(gap.rule.verbs)


def _of_lease(gap: Gap) -> bool:
    return gap.resource == LEASES.plural


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
