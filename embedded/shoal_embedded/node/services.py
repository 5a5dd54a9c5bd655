"""The Services of the API as relays of this machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from shoal_embedded.node.addresses import AddressBook
from shoal_embedded.node.podspec import Pod
from shoal_embedded.node.relay import Endpoint, Relay

Json = dict[str, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backend:
    """A pod of this node as a Service sees it."""

    pod: Pod
    ip: str
    ready: bool


def endpoints(service: Json, port: Json, backends: Iterable[Backend]) -> list[Endpoint]:
    """Return where connections to one port of a Service may go now. Pure."""
    spec = service["spec"]
    selector = spec.get("selector") or {}
    if not selector:
        return []
    unready_too = bool(spec.get("publishNotReadyAddresses"))
    found: list[Endpoint] = []
    for backend in backends:
        pod = backend.pod
        if pod.namespace != service["metadata"]["namespace"] or not (backend.ready or unready_too):
            continue
        if any(pod.labels.get(key) != value for key, value in selector.items()):
            continue
        number = target_port(port, pod)
        if number is not None:
            found.append((backend.ip, number))
    return sorted(found)


def target_port(port: Json, pod: Pod) -> int | None:
    """Return the pod's port behind a Service's port; None when the pod has no port of that name."""
    target = port.get("targetPort") or port["port"]
    if isinstance(target, int) or str(target).isdigit():
        return int(target)
    return next((container.ports[target] for container in pod.containers if target in container.ports), None)


class ServiceTable:
    """Keeps one relay per port of each Service. `run` must be running."""

    def __init__(
        self, book: AddressBook, services: Callable[[], Sequence[Json]], backends: Callable[[], Sequence[Backend]]
    ) -> None:
        self._book = book
        self._services = services
        self._backends = backends
        self._relays: dict[tuple[str, int], Relay] = {}
        self._ready: dict[tuple[str, int], list[Endpoint]] = {}
        self._uids: set[str] = set()
        self._wake = asyncio.Event()

    def poke(self) -> None:
        """Have everything looked at again: a Service or a pod has changed."""
        self._wake.set()

    def address(self, service: Json) -> str:
        """Return the address on which a Service can be reached on this machine."""
        return self._book.service(str(service["metadata"]["uid"]), str(service["spec"].get("clusterIP") or ""))

    async def run(self) -> None:
        """Adjust the relays after each change until cancelled; then close them."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._adjust()
        finally:
            for relay in self._relays.values():
                relay.close()

    async def _adjust(self) -> None:
        backends = self._backends()
        uids: set[str] = set()
        ready: dict[tuple[str, int], list[Endpoint]] = {}
        for service in self._services():
            if service["spec"].get("type") == "ExternalName" or not service["spec"].get("selector"):
                continue
            uids.add(str(service["metadata"]["uid"]))
            address = self.address(service)
            for port in service["spec"].get("ports") or ():
                if (port.get("protocol") or "TCP") == "TCP":
                    ready[(address, int(port["port"]))] = endpoints(service, port, backends)
        self._ready = ready
        for place in list(self._relays):
            if place not in ready:
                self._relays.pop(place).close()
        for uid in self._uids - uids:
            self._book.release_service(uid)
        self._uids = uids
        for place in ready:
            await self._adjust_relay(place)

    async def _adjust_relay(self, place: tuple[str, int]) -> None:
        relay = self._relays.get(place)
        if relay is None:
            relay = self._relays[place] = Relay(place, lambda: self._ready.get(place, ()))
        try:
            await relay.adjust()
        except OSError as error:
            log.error("cannot listen on %s:%d for a Service: %s", *place, error)
