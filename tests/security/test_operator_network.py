"""What the chart's policy lets the operator do, by the labels of its rendered pod and of the built data plane."""

from __future__ import annotations

import pytest

from shoal.api.labels import PORTS, Role
from tests.chart.helm import Helm, find_helm, of_kind, one
from tests.kubernetes import ProgramsMissingError
from tests.security.policies import End, Json, passes
from tests.security.test_network import DNS, METADATA, NAMESPACE, PODS, PROMETHEUS, STRANGER, WEB
from tests.security.test_network import policies as data_plane

HOME = "shoal-system"
API_SERVER = End("api server", address="172.18.0.2")
NAMED = {
    "apiServerCidrs": ["172.18.0.2/32"],
    "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": PROMETHEUS.namespace}}}],
}
"""Values that name the API server's address and who reads metrics."""


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """helm without a cluster; skips where it is absent."""
    try:
        return Helm(find_helm(), tmp_path_factory.mktemp("helm"))
    except ProgramsMissingError as reason:
        pytest.skip(str(reason))


def _rendered(helm: Helm, **network: object) -> tuple[list[Json], End]:
    """The chart's policies, and its operator's pod."""
    objects = helm.render({"networkPolicy": network}, namespace=HOME)
    labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    return of_kind(objects, "NetworkPolicy"), End("operator", labels, HOME)


@pytest.mark.parametrize("role", PODS)
def test_the_operator_calls_services_alone(helm: Helm, role: str) -> None:
    own, operator = _rendered(helm)
    asked = role in (Role.BROKER, Role.GATEWAY, Role.DATA)
    # Both ends have to agree: the chart's policy and those that the operator makes name each other's labels.
    assert passes([*own, *data_plane()], operator, PODS[role], PORTS[role]) is asked
    assert not passes(own, PODS[role], operator, PORTS[role])


def test_with_its_address_named_the_operator_reaches_the_api_server_alone(helm: Helm) -> None:
    own, operator = _rendered(helm, **NAMED)
    assert passes(own, operator, API_SERVER, 6443)
    assert passes(own, operator, DNS, 53, "UDP")
    for elsewhere in (WEB, METADATA, STRANGER):
        assert not passes(own, operator, elsewhere, 443)
        assert not passes(own, operator, elsewhere, 80)


def test_by_default_any_address_is_open_on_the_api_servers_ports_and_no_other(helm: Helm) -> None:
    own, operator = _rendered(helm)
    for elsewhere in (API_SERVER, WEB):
        assert passes(own, operator, elsewhere, 443)
        assert not passes(own, operator, elsewhere, 80)


def test_metrics_are_the_one_thing_to_ask_an_operator_for(helm: Helm) -> None:
    own, operator = _rendered(helm, **NAMED)
    assert passes(own, PROMETHEUS, operator, "metrics")
    for outsider in (STRANGER, WEB, End("member", PODS[Role.ENVIRONMENT].labels, NAMESPACE)):
        assert not passes(own, outsider, operator, "metrics")
    assert not passes(own, PROMETHEUS, operator, 22)
