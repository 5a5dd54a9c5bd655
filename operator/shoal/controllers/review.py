"""Which permissions the operator's account lacks, asked by SelfSubjectAccessReview, which every account may."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from shoal.kube.client import KubeClient
from shoal.kube.errors import ApiError
from shoal.kube.permissions import Rule, Scope
from shoal.kube.resources import Resource

Json = dict[str, Any]

REVIEWS = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)
WHO = Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False)
PARALLEL = 8
"""Some fifty questions at once would wait behind the API server's limit for one account."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A permission that the account lacks: one verb on one resource, and the rule that asks for it."""

    verb: str
    resource: str
    namespace: str
    """"" for all namespaces, or for an object in none."""
    rule: Rule

    @property
    def full_name(self) -> str:
        """The resource with its group, as kubectl takes it."""
        return f"{self.resource}.{self.rule.group}" if self.rule.group else self.resource


@dataclass(frozen=True, slots=True)
class Places:
    """Where rules must hold: the watched namespace ("" for all), and the operator's own."""

    watched: str
    own: str

    def of(self, scope: Scope) -> str:
        """The namespace to ask about; "" for all, or for objects in none."""
        return {Scope.WATCHED: self.watched, Scope.OWN: self.own, Scope.CLUSTER: ""}[scope]


def describe(gaps: Iterable[Gap], most: int) -> str:
    """The gaps in words, by namespace and resource; of many resources the first ones."""
    places: dict[str, dict[str, list[str]]] = {}
    for gap in gaps:
        places.setdefault(gap.namespace, {}).setdefault(gap.full_name, []).append(gap.verb)
    parts = []
    for namespace, resources in places.items():
        named = [f"{name} ({', '.join(verbs)})" for name, verbs in resources.items()]
        more = f" and {len(named) - most} more resources" if len(named) > most else ""
        where = f"in namespace {namespace}" if namespace else "in the whole cluster"
        parts.append(f"{where}: {', '.join(named[:most])}{more}")
    return "; ".join(parts)


async def find_gaps(client: KubeClient, rules: Iterable[Rule], places: Places) -> list[Gap]:
    """Ask for every verb of these rules. Raises `ApiError` when the server cannot say."""
    asked = [
        Gap(verb, resource, places.of(rule.scope), rule)
        for rule in rules
        for resource in rule.resources
        # Verbs that are implied by none are for clusters with a plug-in that asks for them.
        for verb in (rule.granted if rule.verbs else ())
    ]
    limit = asyncio.Semaphore(PARALLEL)

    async def denied(gap: Gap) -> bool:
        async with limit:
            return not await _allowed(client, gap)

    async with asyncio.TaskGroup() as group:
        answers = [group.create_task(denied(gap)) for gap in asked]
    return [gap for gap, answer in zip(asked, answers, strict=True) if answer.result()]


async def account(client: KubeClient) -> str:
    """Name of the account, as RBAC knows it; "" where the server does not tell."""
    try:
        body = await client.create(WHO, {"apiVersion": WHO.api_version, "kind": WHO.kind})
    except ApiError:
        return ""
    return str(((body.get("status") or {}).get("userInfo") or {}).get("username") or "")


async def _allowed(client: KubeClient, gap: Gap) -> bool:
    plural, _, subresource = gap.resource.partition("/")
    attributes = {
        "group": gap.rule.group,
        "resource": plural,
        "subresource": subresource,
        "verb": gap.verb,
        "namespace": gap.namespace,
    }
    body = {
        "apiVersion": REVIEWS.api_version,
        "kind": REVIEWS.kind,
        "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
    }
    answer = await client.create(REVIEWS, body)
    return bool((answer.get("status") or {}).get("allowed"))
