"""Loopback addresses: one per pod and, where a Service's own can't be listened on, one per Service."""

from __future__ import annotations

import ipaddress
import logging
import socket
import zlib
from pathlib import Path
from typing import Any

import orjson

from shoal_embedded.node.records import write_atomically

log = logging.getLogger(__name__)

_FIRST, _LAST = 128, 247
"""Second octets to choose from; the lower ones are for people and other programs."""
_PODS_BELOW = 240
"""Third octets below this are for pods, those from it on for Services."""
_PER_OCTET = 254


class AddressBook:
    """Gives out addresses of one /16 of 127.0.0.0/8 and remembers them in a file.

    Several nodes may run on one machine: each claims its /16 by an abstract Unix socket, which the kernel frees with
    the process. `claim` must be called before the first address is taken.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._claims: list[socket.socket] = []
        self._claimed: dict[str, bool] = {}
        saved = _load(path)
        self._octet: int = saved.get("octet", 0)
        self._pods: dict[str, str] = saved.get("pods", {})
        self._services: dict[str, str] = saved.get("services", {})
        self._next: int = saved.get("next", 0)

    def claim(self) -> None:
        """Take a /16 for this process: the one of the run before, else the first that is free.

        Raises `RuntimeError` when none is.
        """
        if self._octet:
            if not self._claim_prefix(f"127.{self._octet}"):
                log.warning("127.%d.0.0/16 is also used by another node of this machine", self._octet)
            return
        start = zlib.crc32(str(self._path).encode()) % (_LAST - _FIRST + 1)
        for step in range(_LAST - _FIRST + 1):
            octet = _FIRST + (start + step) % (_LAST - _FIRST + 1)
            if self._claim_prefix(f"127.{octet}"):
                self._octet = octet
                self._save()
                return
        raise RuntimeError("every range from 127.128.0.0/16 to 127.247.0.0/16 is in use by another node")

    def close(self) -> None:
        """Give the claims back."""
        for one in self._claims:
            one.close()
        self._claims.clear()
        self._claimed.clear()

    def pod(self, uid: str) -> str:
        """Return the address of a pod, the same for as long as it lives."""
        if uid not in self._pods:
            used = set(self._pods.values())
            # Going round, so that an address is not used again while others may still know its last owner by it.
            while self._pod_address(self._next) in used:
                self._next += 1
            self._pods[uid] = self._pod_address(self._next)
            self._next += 1
            self._save()
        return self._pods[uid]

    def release_pod(self, uid: str) -> None:
        """Forget a pod."""
        if self._pods.pop(uid, None) is not None:
            self._save()

    def service(self, uid: str, cluster_ip: str) -> str:
        """Return the address to listen on for a Service: its own if this machine and no other node has it."""
        if uid not in self._services:
            self._services[uid] = self._own(cluster_ip) or self._free_service()
            self._save()
        return self._services[uid]

    def release_service(self, uid: str) -> None:
        """Forget a Service."""
        if self._services.pop(uid, None) is not None:
            self._save()

    def _own(self, cluster_ip: str) -> str | None:
        try:
            loopback = ipaddress.ip_address(cluster_ip).is_loopback
        except ValueError:
            return None
        prefix = ".".join(cluster_ip.split(".")[:2])
        if not loopback or "." not in cluster_ip:
            return None
        if prefix not in self._claimed:
            self._claimed[prefix] = self._claim_prefix(prefix)
        return cluster_ip if self._claimed[prefix] else None

    def _free_service(self) -> str:
        used = set(self._services.values())
        addresses = (
            f"127.{self._octet}.{third}.{fourth}" for third in range(_PODS_BELOW, 256) for fourth in range(1, 255)
        )
        return next(address for address in addresses if address not in used)

    def _pod_address(self, index: int) -> str:
        third, fourth = divmod(index % (_PODS_BELOW * _PER_OCTET), _PER_OCTET)
        return f"127.{self._octet}.{third}.{fourth + 1}"

    def _claim_prefix(self, prefix: str) -> bool:
        one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            one.bind(f"\0shoal-node-{prefix}")
        except OSError:
            one.close()
            return False
        self._claims.append(one)
        return True

    def _save(self) -> None:
        body = {"octet": self._octet, "pods": self._pods, "services": self._services, "next": self._next}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, orjson.dumps(body))


def _load(path: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return loaded
