"""What Shoal knows of agent-sandbox."""

from dataclasses import replace
from typing import ClassVar

from shoal.api.v1alpha1.environmentpool import EnvironmentPoolSpec, MemberBackend
from shoal.builders.owner import Owner
from shoal.engine.store import OWNER_UID, Store
from shoal.kube.discovery import Kind, Need
from shoal.kube.permissions import FOLLOW, Rule
from shoal.neighbours.maker import Maker
from shoal.neighbours.neighbour import Json, Manifest
from shoal.neighbours.sandbox.manifest import GROUP, SANDBOX, sandbox_of
from shoal.planner.holders import Held, read_holder
from shoal.planner.observed import PodView, Trouble

NAME = "agent-sandbox"


class AgentSandbox(Maker):
    """agent-sandbox: a pool with `backend: AgentSandbox` creates Sandboxes in place of its members' pods."""

    need: ClassVar[Need] = Need(NAME, GROUP, ("v1beta1", "v1alpha1"), (Kind("sandboxes", SANDBOX),))
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(GROUP, ("sandboxes",), (*FOLLOW, "create", "delete"), "Make members from Sandboxes.", NAME),
    )
    kind: ClassVar[str] = SANDBOX
    plural: ClassVar[str] = "sandboxes"
    project: ClassVar[str] = "kubernetes-sigs/agent-sandbox"
    field: ClassVar[str] = "spec.backend AgentSandbox"

    def member(self, owner: Owner, spec: EnvironmentPoolSpec, pod: Manifest) -> Manifest | None:
        """Return the Sandbox whose pod is the built one, where the pool asks for Sandboxes."""
        return sandbox_of(owner, pod) if spec.backend is MemberBackend.AGENT_SANDBOX else None

    @staticmethod
    def read(body: Json) -> Held:
        """Cut a Sandbox down; agent-sandbox puts a pod that was refused into its Ready condition."""
        return replace(read_holder(SANDBOX, body), trouble=_trouble(body))

    def _pods(self, pods: Store[PodView], namespace: str, uid: str, held: Held) -> list[PodView]:
        return pods.by_index(OWNER_UID, held.uid, namespace)


def _trouble(body: Json) -> Trouble | None:
    for condition in (body.get("status") or {}).get("conditions") or []:
        if condition["type"] == "Ready" and condition.get("reason") == "ReconcilerError":
            return Trouble("CannotStart", condition.get("message", ""))
    return None
