"""NetworkPolicies of the data plane: who may speak with whom, by role.

Every role takes connections from those alone that have a reason to call it. Members, which run what nobody has read,
are held back in both directions. A network plug-in has to enforce this; one that does not lets everything through.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Any

from shoal.api.labels import PORTS, ROLE, Role
from shoal.api.v1alpha1.environmentpool import Isolation, Network
from shoal.builders.children import build_child, with_hash
from shoal.builders.owner import Owner

Manifest = dict[str, Any]

NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""The label with its name that every namespace has from the API server."""
OPERATOR = {"app.kubernetes.io/component": "operator"}
"""What the chart's operator pods carry."""

DNS_PORT = 53
_DNS = {
    "namespaceSelector": {"matchLabels": {NAMESPACE_NAME: "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}
_NODE_LOCAL_DNS = {"ipBlock": {"cidr": "169.254.20.10/32"}}
"""Where NodeLocal DNSCache answers, by its own convention."""

_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "127.0.0.0/8")
"""Private, carrier-grade, link-local (cloud metadata!) and loopback addresses: RFC 1918, 6598, 3927, 1122."""
_LOCAL = ("fc00::/7", "fe80::/10", "::1/128")
"""Unique local, link-local and loopback addresses: RFC 4193, 4291."""
_TRANSLATED = IPv6Network("64:ff9b::/96")
"""NAT64's well-known prefix, under which an IPv6 address stands for an IPv4 one: RFC 6052."""


def _translated(block: str) -> str:
    """An IPv4 block as a translator names it; one would otherwise lead an environment to the cloud's metadata."""
    inner = IPv4Network(block)
    address = IPv6Address(int(_TRANSLATED.network_address) + int(inner.network_address))
    return str(IPv6Network((address, _TRANSLATED.prefixlen + inner.prefixlen)))


_INTERNET = [
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": list(_PRIVATE)}},
    {"ipBlock": {"cidr": "::/0", "except": [*_LOCAL, *map(_translated, _PRIVATE)]}},
]


@dataclass(frozen=True)
class NetworkSettings:
    """What the policies need to know of the cluster.

    Args:
        enabled: whether policies are made at all.
        operator_namespace: where the operator's pods are; empty: the operator is no pod.
        scrapers: namespaces whose pods may read metrics, from every role but members.
    """

    enabled: bool = True
    operator_namespace: str = ""
    scrapers: Sequence[str] = ()


def pool_policies(owner: Owner, isolation: Isolation, settings: NetworkSettings) -> list[Manifest]:
    """Members and broker of a pool."""
    if not settings.enabled:
        return []
    members, broker = _own(owner, Role.ENVIRONMENT), _own(owner, Role.BROKER)
    egress = [_rule("to", [broker], PORTS[Role.BROKER]), *_names(), *_outside(isolation.network)]
    agents = _role(Role.AGENT)
    return [
        _policy(owner, Role.ENVIRONMENT, [_rule("from", [broker, agents], PORTS[Role.ENVIRONMENT])], egress),
        _policy(owner, Role.BROKER, _serving(Role.BROKER, [members, agents, *_operator(settings)], settings)),
    ]


def fleet_policies(owner: Owner, settings: NetworkSettings) -> list[Manifest]:
    """Engines and gateway of a fleet. The gateway alone reaches an engine: it has routes that replace its weights."""
    if not settings.enabled:
        return []
    engines, gateway = _own(owner, Role.ENGINE), _own(owner, Role.GATEWAY)
    callers = [engines, _role(Role.AGENT), _role(Role.TRAINER), *_operator(settings)]
    group = [engines, _own(owner, Role.ENGINE_WORKER)]
    return [
        _policy(owner, Role.ENGINE, [*_serving(Role.ENGINE, [gateway], settings), {"from": group[1:]}]),
        # The pods of an engine over several nodes talk on ports that their library chooses.
        _policy(owner, Role.ENGINE_WORKER, [{"from": group}]),
        _policy(owner, Role.GATEWAY, _serving(Role.GATEWAY, callers, settings)),
    ]


def job_policies(owner: Owner, settings: NetworkSettings, *, foreign_ray: bool) -> list[Manifest]:
    """Data manager, agents and trainer of a job.

    Args:
        owner: the job.
        settings: the cluster.
        foreign_ray: the trainer works on a Ray cluster that is not in its pod; that calls it back, on any port.
    """
    if not settings.enabled:
        return []
    callers = [_own(owner, Role.AGENT), _own(owner, Role.TRAINER), *_operator(settings)]
    policies = [
        _policy(owner, Role.DATA, _serving(Role.DATA, callers, settings)),
        _policy(owner, Role.AGENT, _serving(Role.AGENT, [], settings)),
    ]
    if not foreign_ray:
        policies.append(_policy(owner, Role.TRAINER, _serving(Role.TRAINER, [], settings)))
    return policies


def _policy(owner: Owner, role: str, ingress: list[Manifest], egress: list[Manifest] | None = None) -> Manifest:
    spec: Manifest = {"podSelector": _own(owner, role)["podSelector"], "policyTypes": ["Ingress"], "ingress": ingress}
    if egress is not None:
        spec |= {"policyTypes": ["Ingress", "Egress"], "egress": egress}
    return with_hash(build_child(owner, "networking.k8s.io/v1", "NetworkPolicy", owner.service(role), {"spec": spec}))


def _serving(role: str, callers: list[Manifest], settings: NetworkSettings) -> list[Manifest]:
    scrapers = [{"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: name}}} for name in settings.scrapers]
    peers = [*callers, *scrapers]
    # A rule without peers would let everybody in; no rule lets nobody in.
    return [_rule("from", peers, PORTS[role])] if peers else []


def _rule(direction: str, peers: list[Manifest], port: int) -> Manifest:
    return {direction: peers, "ports": [{"port": port, "protocol": "TCP"}]}


def _own(owner: Owner, role: str) -> Manifest:
    return {"podSelector": {"matchLabels": {ROLE: role, owner.label: owner.name}}}


def _role(role: str) -> Manifest:
    """Pods of a role of any resource in the namespace: a shared pool or fleet does not know its jobs."""
    return {"podSelector": {"matchLabels": {ROLE: role}}}


def _operator(settings: NetworkSettings) -> list[Manifest]:
    if not settings.operator_namespace:
        return []
    namespace = {"matchLabels": {NAMESPACE_NAME: settings.operator_namespace}}
    return [{"namespaceSelector": namespace, "podSelector": {"matchLabels": OPERATOR}}]


def _names() -> list[Manifest]:
    ports = [{"port": DNS_PORT, "protocol": "UDP"}, {"port": DNS_PORT, "protocol": "TCP"}]
    return [{"to": [_DNS, _NODE_LOCAL_DNS], "ports": ports}]


def _outside(network: Network) -> list[Manifest]:
    if network is Network.CLUSTER_INTERNAL:
        return [{"to": [{"namespaceSelector": {}}]}]
    return [{"to": _INTERNET}] if network is Network.INTERNET else []
