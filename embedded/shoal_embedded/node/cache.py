"""What the API holds that pods of this node refer to, mirrored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.engine.keys import ObjectKey
from shoal.engine.reflector import Reflector
from shoal.engine.store import Store
from shoal.kube.client import KubeClient
from shoal.kube.resources import CONFIG_MAPS, PERSISTENT_VOLUME_CLAIMS, PODS, SECRETS, SERVICES

Json = dict[str, Any]


def _whole(body: Json) -> Json:
    return body


class Cache:
    """Pods, Services, Secrets, ConfigMaps and claims. `address` gives a Service's address on this machine."""

    def __init__(self, client: KubeClient) -> None:
        self.pods, self._services, self._secrets, self._config_maps, self._claims = (
            Reflector(client, resource, Store(_whole))
            for resource in (PODS, SERVICES, SECRETS, CONFIG_MAPS, PERSISTENT_VOLUME_CLAIMS)
        )
        self.address: Callable[[Json], str] = lambda service: str(service["spec"].get("clusterIP") or "")

    @property
    def reflectors(self) -> tuple[Reflector[Json], ...]:
        """All of them, to be run."""
        return (self.pods, self._services, self._secrets, self._config_maps, self._claims)

    @property
    def references(self) -> tuple[Reflector[Json], ...]:
        """Those of objects that a pod's start may wait for."""
        return self.reflectors[1:]

    @property
    def contents(self) -> tuple[Reflector[Json], ...]:
        """Those of objects whose content lies in volumes."""
        return (self._secrets, self._config_maps)

    def all_services(self) -> list[Json]:
        """Return every Service."""
        return self._services.store.values()

    def secret(self, namespace: str, name: str) -> Json | None:
        """Return a Secret."""
        return self._secrets.store.get(ObjectKey(namespace, name))

    def config_map(self, namespace: str, name: str) -> Json | None:
        """Return a ConfigMap."""
        return self._config_maps.store.get(ObjectKey(namespace, name))

    def claim(self, namespace: str, name: str) -> Json | None:
        """Return a PersistentVolumeClaim."""
        return self._claims.store.get(ObjectKey(namespace, name))

    def claims(self) -> list[Json]:
        """Return every PersistentVolumeClaim."""
        return self._claims.store.values()

    def services(self, namespace: str) -> dict[str, tuple[str, list[Json]]]:
        """Return a namespace's Services that have an address: name -> (address, ports)."""
        return {
            service["metadata"]["name"]: (self.address(service), service["spec"].get("ports") or [])
            for service in self.all_services()
            if service["metadata"]["namespace"] == namespace and service["spec"].get("selector")
        }

    def service_address(self, namespace: str, name: str) -> str | None:
        """Return the address of a Service on this machine; None when there is no such Service."""
        service = self._services.store.get(ObjectKey(namespace, name))
        return None if service is None else self.address(service)


def claim_folder(root: Path, cache: Cache, namespace: str, name: str) -> Path | None:
    """Return the directory of a claim; None when there is no such claim."""
    return root / namespace / name if cache.claim(namespace, name) is not None else None
