"""Two servers, the embedded one and the real one, with the definitions that the cases use."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from shoal.crdgen import generate
from tests.embedded.apiserver.conftest import Embedded, embedded
from tests.embedded.conformance.case import Step
from tests.embedded.conformance.exchange import Side, sides
from tests.embedded.conformance.gadgets import DEFINITION, DEFINITIONS, GADGETS
from tests.kubernetes import Kubernetes, KubernetesServer, ProgramsMissingError

__all__ = ["embedded"]

PREPARE_SECONDS = 30.0
"""A server that takes longer to serve a new definition has failed."""
Pair = tuple[Side, Side]


@pytest.fixture(scope="session")
def prepared(embedded: Embedded, kubernetes_server: KubernetesServer) -> None:
    """Both servers serve the definitions of the cases and Shoal's own."""
    try:
        kubernetes_server.start_controller_manager()
    except ProgramsMissingError as reason:
        pytest.skip(str(reason))
    kubernetes = Kubernetes(kubernetes_server, kubernetes_server.new_namespace())
    for side in sides(embedded, kubernetes):
        for definition in (DEFINITION, *generate.definitions()):
            _define(side, definition)
        _served(side, GADGETS)
        _served(side, "/apis/rl.shoal.dev/v1alpha1/namespaces/{namespace}/rljobs")
        side.close()


def _define(side: Side, definition: dict[str, Any]) -> None:
    answer = side.send(Step("POST", DEFINITIONS, definition))
    assert answer.code in (201, 409), answer.body


def _served(side: Side, path: str) -> None:
    group = path.split("/")[2]
    deadline = time.monotonic() + PREPARE_SECONDS
    while side.send(Step("GET", path)).code != 200 or group not in str(side.send(Step("GET", "/openapi/v3")).body):
        assert time.monotonic() < deadline, f"{side.url} does not serve {path}"
        time.sleep(0.1)


@pytest.fixture
def pair(prepared: None, embedded: Embedded, kubernetes: Kubernetes) -> Pair:
    """Both servers, each with a new namespace: (embedded, real)."""
    return sides(embedded, kubernetes)


@pytest.fixture
def account(pair: Pair) -> Callable[[], None]:
    """Wait until the real server's controllers have filled the new namespace."""

    def wait() -> None:
        for side in pair:
            side.send(Step("GET", "/api/v1/namespaces/{namespace}/serviceaccounts/default", until=200))

    return wait
