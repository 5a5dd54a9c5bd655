"""Carries out what a plan decided; every write is recorded as expected before it is made."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from shoal.api.labels import PREFIX, PREVIOUS_TOKEN_KEY, TOKEN_KEY
from shoal.builders.children import new_token, token_renewed
from shoal.builders.owner import Owner
from shoal.controllers.fields import SCALE_MANAGER
from shoal.controllers.peers import Peers
from shoal.controllers.refusals import Refusals, ramp
from shoal.engine.clock import Clock
from shoal.engine.expectations import Expectations
from shoal.engine.keys import ObjectKey
from shoal.engine.recorder import EventRecorder, Reference
from shoal.kube.client import KubeClient, Propagation
from shoal.kube.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    NotFoundError,
)
from shoal.kube.resources import (
    ENVIRONMENT_POOLS,
    NETWORK_POLICIES,
    PODS,
    RL_JOBS,
    ROLLOUT_FLEETS,
    SECRETS,
    SERVICES,
    Resource,
)
from shoal.neighbours.maker import ExpectedBy
from shoal.neighbours.registry import Neighbourhood
from shoal.planner.actions import (
    Action,
    Apply,
    CreateOnce,
    CreatePod,
    DeleteChild,
    DeletePod,
    DeleteSelf,
    DrainEngine,
    Event,
    ForgetToken,
    PatchStatus,
    ReflectScale,
    RenewToken,
    RetireMember,
)
from shoal.planner.observed import Expected, Holder, Refused
from shoal.planner.refusals import child_key, key_of

log = logging.getLogger(__name__)

RESOURCES = {
    resource.kind: resource
    for resource in (PODS, SERVICES, SECRETS, NETWORK_POLICIES, ENVIRONMENT_POOLS, ROLLOUT_FLEETS, RL_JOBS)
}
PARALLEL_WRITES = 32
"""Writes of one pass in flight at once: enough to fill a pool fast, few enough to leave the API server to others."""

_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
"""Kubernetes' own alphabet for generated names: no vowels, so that no words appear."""


@dataclass(frozen=True)
class Subject:
    """The resource that a pass is about, and where its service answers.

    Args:
        owner: identity of the resource.
        resource: its API.
        service_ip: address of the broker's or gateway's pod, "" while there is none.
        tokens: bearer tokens that the resource's services take, newest first.
    """

    owner: Owner
    resource: Resource
    service_ip: str = ""
    tokens: tuple[str, ...] = ()

    def reference(self) -> Reference:
        """What Events about this resource refer to."""
        owner = self.owner
        return Reference(self.resource.api_version, owner.kind, owner.namespace, owner.name, owner.uid)


class Effects:
    """The thin layer between plans and the API server."""

    def __init__(
        self,
        client: KubeClient,
        expectations: Expectations[ExpectedBy],
        recorder: EventRecorder,
        peers: Peers,
        clock: Clock,
        neighbours: Neighbourhood,
    ) -> None:
        self._client = client
        self._neighbours = neighbours
        self.refusals = Refusals(clock)
        self._expectations = expectations
        self._recorder = recorder
        self._peers = peers
        self._clock = clock

    def expected(self, owner: Owner, roles: Iterable[str]) -> Expected:
        """What this process asked for on behalf of the owner and its caches do not show yet."""
        creations: dict[str, int] = {}
        deletions: set[str] = set()
        for role in roles:
            for expectations in (self._expectations, *self._neighbours.expectations()):
                pending = expectations.pending((owner.uid, role), self._clock.now())
                creations[role] = creations.get(role, 0) + len(pending.creations)
                deletions |= pending.deletions
        return Expected(creations, frozenset(deletions), self.refusals.of(owner.uid))

    async def perform(self, subject: Subject, actions: Iterable[Action]) -> ApiError | None:
        """Do everything: shared children first and in order, pods side by side.

        Returns what the API server refuses, now or before; it is tried again after a pause (`refusals.retry_in`).
        Raises the first other error at the end.
        """
        uid = subject.owner.uid
        ordered, creations, parallel = _sorted(actions)
        wanted = {key_of(action) for action in [*ordered, *(each for group in creations.values() for each in group)]}
        self.refusals.keep(uid, lambda key: key in wanted or not _is_own(key))
        held = [not await self._child(subject, action) for action in ordered]
        limit = asyncio.Semaphore(PARALLEL_WRITES)

        async def bounded(action: Action) -> bool:
            async with limit:
                return await self._one(subject, action)

        async def create(role: str, group: list[Action]) -> None:
            if not self.refusals.waits(uid, role):
                await ramp(group, bounded, self.refusals.pace(uid, role), PARALLEL_WRITES)

        works: list[Awaitable[object]] = [bounded(action) for action in parallel]
        if not any(held):  # without its Secret, say, no pod could start
            works += [create(role, group) for role, group in creations.items()]
        results = await asyncio.gather(*works, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return self.refusals.error(uid)

    async def _child(self, subject: Subject, action: Action) -> bool:
        """Whether the child could be written, or anything else done."""
        uid, key = subject.owner.uid, key_of(action)
        if key and self.refusals.waits(uid, key):
            return False
        try:
            done = await self._one(subject, action)
        except ApiError as error:
            if not key or not _refuses(error):
                raise
            await self._refuse(subject.owner, key, Refused("CreateRefused", f"{key.replace('/', ' ')}: {error}"), error)
            return False
        if done and key:
            self.refusals.accept(uid, key)
        return done

    async def _refuse(self, owner: Owner, key: str, refused: Refused, error: ApiError) -> None:
        self.refusals.refuse(owner.uid, key, refused, error)
        event = "CreateFailed" if refused.reason == "CreateRefused" else refused.reason
        await self._recorder.record(_reference(owner), "Warning", event, refused.message)

    async def _one(self, subject: Subject, action: Action) -> bool:
        """Whether it was done, and not refused."""
        owner = subject.owner
        match action:
            case Apply():
                return await self._apply(subject, action)
            case CreateOnce(manifest):
                return await self._create_once(owner, manifest)
            case RenewToken(secret, version, current, edited):
                # Nodes may have brought an edited token to the pods by now; it is taken until they have the new one.
                change = token_renewed(new_token(), current, self._clock.wall())
                if await self._change_token(owner, secret, version, change):
                    text = f"secret {secret} has a new token; the one before is taken for a while"
                    if edited:
                        text = f"Secret {secret}: data.{TOKEN_KEY} was changed by hand; {text}"
                        await self._recorder.record(subject.reference(), "Warning", "DriftRepaired", text)
                    else:
                        await self._recorder.record(subject.reference(), "Normal", "TokenRenewed", text)
            case ForgetToken(secret, version):
                await self._change_token(owner, secret, version, {"data": {PREVIOUS_TOKEN_KEY: ""}})
            case CreatePod(role, manifest):
                return await self._create_pod(owner, role, manifest)
            case DeletePod(role, name, uid, reason, holder, force):
                await self._delete_pod(owner, role, holder or Holder("Pod", name), uid, reason, force=force)
            case RetireMember(name, uid, reason, holder):
                if await self._peers.retire_member(subject.service_ip, subject.tokens, name):
                    await self._delete_pod(owner, "environment", holder or Holder("Pod", name), uid, reason)
            case DrainEngine(name, uid, reason, holder):
                if await self._peers.drain_engine(subject.service_ip, subject.tokens, name):
                    await self._delete_pod(owner, "engine", holder or Holder("Pod", name), uid, reason)
            case DeleteSelf():
                await self._ignore(
                    NotFoundError,
                    lambda: self._client.delete(subject.resource, owner.name, owner.namespace, uid=owner.uid),
                )
            case DeleteChild(kind, name, uid, reason):
                await self._delete_child(owner, kind, name, uid, reason)
            case ReflectScale(replicas):
                await self._reflect(subject, replicas)
            case PatchStatus(kind, name, resource_version, status):
                await self._patch_status(owner, kind, name, resource_version, status)
            case Event(type_, reason, message):
                await self._recorder.record(subject.reference(), type_, reason, message)
        return True

    def refusal(self, owner: Owner, kind: str) -> str:
        """Why the API server refused the owner's child of a neighbour's kind when it was last applied, or ""."""
        found = self.refusals.of(owner.uid)
        return next((each.message for key, each in found.items() if key.startswith(f"{kind}/")), "")

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a resource that is gone."""
        self.refusals.forget(uid)

    async def _apply(self, subject: Subject, action: Apply) -> bool:
        owner, manifest = subject.owner, action.manifest
        kind, key = manifest["kind"], child_key(manifest["kind"], manifest["metadata"]["name"])
        resource = self._resource(kind)
        if resource is None:
            return True
        if action.first and await self._is_taken(owner, resource, key, manifest):
            return False
        try:
            applied = await self._client.apply(resource, manifest, owner.namespace)
        except ApiError as error:
            if kind not in RESOURCES and _refuses(error):
                # What the user wrote for another operator is theirs to correct: the next pass tells them.
                refused = Refused("CreateRefused", error.message)
                self.refusals.refuse(owner.uid, key, refused, error)
            raise
        # Of the same version: nothing was wrong by then, or the server holds the field in another form of its own.
        if action.drift and applied["metadata"].get("resourceVersion") != action.version:
            text = f"{action.drift}; it is again as Shoal built it"
            log.warning("%s/%s: %s", owner.namespace, owner.name, text)
            await self._recorder.record(subject.reference(), "Warning", "DriftRepaired", text)
        self.refusals.accept(owner.uid, key)
        return not await self._is_rewritten(owner, key, manifest, applied)

    def _resource(self, kind: str) -> Resource | None:
        """None for a neighbour's kind that went a moment ago; the next pass says so."""
        return RESOURCES.get(kind) or self._neighbours.resource(kind)

    async def _delete_child(self, owner: Owner, kind: str, name: str, uid: str, reason: str) -> None:
        resource = self._resource(kind)
        if resource is None:
            return
        with suppress(NotFoundError, ConflictError):  # gone, or another one by now
            await self._client.delete(resource, name, owner.namespace, uid=uid)
            log.info("deleted %s %s/%s: %s", kind.lower(), owner.namespace, name, reason)

    async def _patch_status(self, owner: Owner, kind: str, name: str, version: str, status: dict[str, Any]) -> None:
        resource = self._resource(kind)
        if resource is None:
            return
        with suppress(NotFoundError, ConflictError):  # a newer version decides afresh, as soon as the cache shows it
            await self._client.patch_status(resource, name, status, owner.namespace, resource_version=version)

    async def _reflect(self, subject: Subject, replicas: int) -> None:
        owner = subject.owner
        # With the UID, because applying would otherwise make a resource that is gone anew.
        body = {"metadata": {"name": owner.name, "uid": owner.uid}, "spec": {"replicas": replicas}}
        with suppress(NotFoundError, ConflictError):  # gone, or pinned by somebody a moment ago
            await self._client.apply(subject.resource, body, owner.namespace, manager=SCALE_MANAGER, force=False)

    async def _create_once(self, owner: Owner, manifest: dict[str, Any]) -> bool:
        resource = RESOURCES[manifest["kind"]]
        name = manifest["metadata"]["name"]
        key = child_key(manifest["kind"], name)
        try:
            stored = await self._client.create(resource, manifest, owner.namespace)
        except AlreadyExistsError:
            if await self._is_taken(owner, resource, key, manifest):
                return False
            # Its own, and the cache may not show it for want of a label that somebody has taken away.
            labels = {"metadata": {"labels": manifest["metadata"]["labels"]}}
            stored = await self._client.patch(resource, name, labels, owner.namespace)
        return not await self._is_rewritten(owner, key, manifest, stored)

    async def _is_rewritten(self, owner: Owner, key: str, manifest: dict[str, Any], stored: dict[str, Any]) -> bool:
        """Whether something in the cluster took labels away by which the operator finds its objects again."""
        changed = changed_labels(manifest, stored)
        if not changed:
            return False
        text = f"{key.replace('/', ' ')} was stored with other labels: {changed}. {EXEMPT}"
        await self._refuse(owner, key, Refused("LabelsRewritten", text), ApiError(text, status=422))
        return True

    async def _is_taken(self, owner: Owner, resource: Resource, key: str, manifest: dict[str, Any]) -> bool:
        """Whether an object that is not this owner's has the child's name; it is told and looked at again.

        Applied over, a Service that a team made by hand would lead its callers into a pool. The pass comes again by
        itself, because nobody follows that object.
        """
        name = manifest["metadata"]["name"]
        # A list of one, because the operator may list its children's kinds and needs no other permission for them.
        page = await self._client.list(resource, owner.namespace, fields=f"metadata.name={name}", limit=0)
        found = next((each for each in page.items if each["metadata"]["name"] == name), None)
        if found is None:
            return False
        claims = found["metadata"].get("ownerReferences") or []
        # By name as well: what an earlier resource of this kind and name has left may go on with its successor, which
        # otherwise had to wait for the garbage collector.
        if any(
            claim["uid"] == owner.uid or (claim["kind"], claim["name"]) == (owner.kind, owner.name) for claim in claims
        ):
            return False
        text = (
            f"{manifest['kind']} {name} is there and does not belong to {owner.kind} {owner.name}: rename one of them"
        )
        error = AlreadyExistsError(text, status=409, reason="AlreadyExists")
        await self._refuse(owner, key, Refused("NameTaken", text), error)
        return True

    async def _change_token(self, owner: Owner, secret: str, version: str, change: dict[str, Any]) -> bool:
        """Whether the Secret was still of this version; a newer one decides afresh, as soon as the cache shows it."""
        change = {**change, "metadata": {**change.get("metadata", {}), "resourceVersion": version}}
        try:
            await self._client.patch(SECRETS, secret, change, owner.namespace)
        except (NotFoundError, ConflictError):
            return False
        return True

    async def _create_pod(self, owner: Owner, role: str, manifest: dict[str, Any]) -> bool:
        kind = manifest["kind"]
        resource, expectations = self._made_of(kind)
        if resource is None:
            return True  # it went a moment ago; the next pass says so
        named = {**_named(manifest), "apiVersion": resource.api_version}
        key = ObjectKey(owner.namespace, named["metadata"]["name"])
        expectations.expect_creation((owner.uid, role), key, self._clock.now())
        try:
            stored = await self._client.create(resource, named, owner.namespace)
        except ApiError as error:
            expectations.creation_failed(key, error)
            if isinstance(error, AlreadyExistsError):
                if await self._is_taken(owner, resource, role, named):
                    return False
                # An older pod of this name is still there. If it was made for an object of this name that is gone,
                # its end wakes nobody, so the pass has to come again by itself.
                raise
            # Without the name, which is another one at each try: a text that changes is a status that is written, and a
            # status that is written wakes the key, which would try again at once.
            words = str(error).replace(key.name, manifest["metadata"].get("generateName", key.name))
            text = f"{kind.lower()} of role {role}: {words}"
            if _refuses(error):
                await self._refuse(owner, role, Refused("CreateRefused", text), error)
                return False
            await self._recorder.record(_reference(owner), "Warning", "CreateFailed", text)
            raise
        changed = changed_labels(named, stored)
        if not changed:
            self.refusals.accept(owner.uid, role)
            return True
        text = f"a {kind.lower()} of role {role} was stored with other labels: {changed}. {EXEMPT}"
        if not is_lost(named, stored):
            await self._recorder.record(_reference(owner), "Warning", "LabelsRewritten", text)
            return True
        # Nobody would find it again, and the next pass would make another one.
        uid = stored["metadata"]["uid"]
        await self._refuse(owner, role, Refused("LabelsRewritten", text), ApiError(text, status=422))
        await self._ignore(NotFoundError, lambda: self._client.delete(resource, key.name, owner.namespace, uid=uid))
        expectations.creation_failed(key, ApiError(text, status=422))
        return False

    async def _delete_pod(
        self, owner: Owner, role: str, target: Holder, uid: str, reason: str, *, force: bool = False
    ) -> None:
        resource, expectations = self._made_of(target.kind)
        if resource is None:
            return
        # In the foreground a holder stays, being deleted, until its pods are gone: counting it counts them.
        propagation: Propagation = "Background" if target.kind == PODS.kind else "Foreground"
        expectations.expect_deletion((owner.uid, role), uid, self._clock.now())
        try:
            grace = 0 if force else None
            await self._client.delete(
                resource, target.name, owner.namespace, uid=uid, propagation=propagation, grace_seconds=grace
            )
            log.info("deleted %s %s/%s: %s", target.kind.lower(), owner.namespace, target.name, reason)
        except ApiError as error:
            expectations.deletion_failed(uid, error)
            if not isinstance(error, NotFoundError | ConflictError):  # gone, or another one by now: nothing to delete
                raise

    def _made_of(self, kind: str) -> tuple[Resource | None, Expectations[ExpectedBy]]:
        if kind == PODS.kind:
            return PODS, self._expectations
        return self._neighbours.resource(kind), self._neighbours.expectations_of(kind)

    @staticmethod
    async def _ignore(error: type[ApiError], call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except error:
            return


_PASSING = frozenset({0, 409, 429, 503})
"""Statuses of a server that is away, busy or slow. Server-side apply answers 500 to a field of the wrong type."""


def _refuses(error: ApiError) -> bool:
    """Whether it is about the object itself."""
    return error.status not in _PASSING


EXEMPT = "Exempt labels of rl.shoal.dev and app.kubernetes.io/managed-by from the webhook or policy that changes them"


def changed_labels(sent: dict[str, Any], stored: dict[str, Any]) -> str:
    """The labels, and the owner, that were sent and are not stored, in words; "" for none."""
    has = stored["metadata"].get("labels") or {}
    changed = [key for key, value in (sent["metadata"].get("labels") or {}).items() if has.get(key) != value]
    return ", ".join([*changed, *([] if _is_owned(sent, stored) else ["ownerReferences"])])


def is_lost(sent: dict[str, Any], stored: dict[str, Any]) -> bool:
    """Whether neither the operator nor a Service could find the stored pod: by Shoal's own labels, and its owner."""
    has = stored["metadata"].get("labels") or {}
    own = {key: value for key, value in sent["metadata"]["labels"].items() if key.startswith(PREFIX)}
    return not _is_owned(sent, stored) or any(has.get(key) != value for key, value in own.items())


def _is_owned(sent: dict[str, Any], stored: dict[str, Any]) -> bool:
    claims = {claim["uid"] for claim in stored["metadata"].get("ownerReferences") or ()}
    return all(claim["uid"] in claims for claim in sent["metadata"].get("ownerReferences") or ())


def _is_own(key: str) -> bool:
    """Whether a refusal is of a role or of a child of Shoal's own kinds; what a neighbour's look-up asks for stays."""
    kind, slash, _ = key.partition("/")
    return not slash or kind in RESOURCES or kind[0].islower()


def _sorted(actions: Iterable[Action]) -> tuple[list[Action], dict[str, list[Action]], list[Action]]:
    """What goes first, the creations of pods by role, and the rest."""
    ordered: list[Action] = []
    creations: dict[str, list[Action]] = {}
    parallel: list[Action] = []
    for action in actions:
        if isinstance(action, CreatePod):
            creations.setdefault(action.role, []).append(action)
        else:
            (ordered if _goes_first(action) else parallel).append(action)
    return ordered, creations, parallel


def _goes_first(action: Action) -> bool:
    """Own children go before the pods that need them. What another operator may refuse must not hold them up."""
    if isinstance(action, Apply):
        return action.manifest["kind"] in RESOURCES
    return isinstance(action, CreateOnce | Event)


def _named(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with a fresh name in place of `generateName`, so that its creation can be expected by name."""
    metadata = dict(manifest["metadata"])
    prefix = metadata.pop("generateName", None)
    if prefix is not None:
        metadata["name"] = prefix + "".join(secrets.choice(_SUFFIX) for _ in range(6))
    return {**manifest, "metadata": metadata}


def _reference(owner: Owner) -> Reference:
    return Subject(owner, RESOURCES[owner.kind]).reference()


__all__ = ["Effects", "ExpectedBy", "Subject"]
