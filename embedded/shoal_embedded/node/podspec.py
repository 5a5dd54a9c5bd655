"""A pod as the node reads it: its containers in order, how they restart, and whether it is being deleted. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any

Json = dict[str, Any]

DEFAULT_GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL where the pod does not say."""


class Kind(StrEnum):
    """What part a container has in its pod's life."""

    INIT = "init"
    SIDECAR = "sidecar"
    MAIN = "main"


@dataclass(frozen=True)
class Container:
    """One container: `body` is its part of the pod."""

    name: str
    kind: Kind
    body: Json

    def probe(self, which: str) -> Json | None:
        """Return the probe `startup`, `liveness` or `readiness`."""
        probe: Json | None = self.body.get(f"{which}Probe")
        return probe

    @property
    def ports(self) -> dict[str, int]:
        """Named ports."""
        return {
            str(port["name"]): int(port["containerPort"]) for port in self.body.get("ports") or () if "name" in port
        }


@dataclass(frozen=True)
class Pod:
    """One pod object, never changed: a newer version is a new `Pod`."""

    body: Json

    @cached_property
    def uid(self) -> str:
        """Identity of the pod."""
        return str(self.body["metadata"]["uid"])

    @cached_property
    def namespace(self) -> str:
        """Namespace."""
        return str(self.body["metadata"]["namespace"])

    @cached_property
    def name(self) -> str:
        """Name."""
        return str(self.body["metadata"]["name"])

    @cached_property
    def spec(self) -> Json:
        """The pod's spec."""
        spec: Json = self.body.get("spec") or {}
        return spec

    @cached_property
    def labels(self) -> dict[str, str]:
        """Labels."""
        return dict(self.body["metadata"].get("labels") or {})

    @cached_property
    def containers(self) -> tuple[Container, ...]:
        """Init containers and sidecars in their order, then the main ones."""
        early = [
            Container(body["name"], Kind.SIDECAR if body.get("restartPolicy") == "Always" else Kind.INIT, body)
            for body in self.spec.get("initContainers") or ()
        ]
        return (*early, *(Container(body["name"], Kind.MAIN, body) for body in self.spec.get("containers") or ()))

    def container(self, name: str) -> Container | None:
        """Return the container `name`, or None."""
        return next((container for container in self.containers if container.name == name), None)

    @property
    def restart_policy(self) -> str:
        """Always, OnFailure or Never."""
        return str(self.spec.get("restartPolicy") or "Always")

    @property
    def grace(self) -> float:
        """Seconds between SIGTERM and SIGKILL: what the deletion says, else the pod."""
        given = self.body["metadata"].get("deletionGracePeriodSeconds")
        if given is None:
            given = self.spec.get("terminationGracePeriodSeconds")
        return DEFAULT_GRACE if given is None else float(given)

    @property
    def deleting(self) -> bool:
        """Whether somebody has asked for its deletion."""
        return "deletionTimestamp" in self.body["metadata"]

    @property
    def ended(self) -> bool:
        """Whether the API shows it as finished."""
        return (self.body.get("status") or {}).get("phase") in ("Succeeded", "Failed")

    def deadline(self) -> float | None:
        """Epoch seconds at which `activeDeadlineSeconds` ends the pod."""
        seconds = self.spec.get("activeDeadlineSeconds")
        start = (self.body.get("status") or {}).get("startTime")
        if seconds is None or start is None:
            return None
        return parse_time(start) + float(seconds)

    def reference(self) -> dict[str, str]:
        """Return an ObjectReference for events."""
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": self.namespace,
            "name": self.name,
            "uid": self.uid,
        }


def parse_time(text: str) -> float:
    """RFC 3339 -> epoch seconds."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def format_time(seconds: float) -> str:
    """Epoch seconds -> RFC 3339 in whole seconds, as the API writes them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
