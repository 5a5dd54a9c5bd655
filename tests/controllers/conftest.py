"""An API server of their own for tests that change the definitions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shoal.controllers import preflight
from tests.controllers.watched import restore
from tests.kubernetes import Kubernetes, KubernetesServer, ProgramsMissingError, find_programs, running_server


@pytest.fixture(scope="package")
def changing_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    """A server of its own: these tests take definitions away, which would take others' objects with them."""
    try:
        find_programs()
    except ProgramsMissingError as reason:
        pytest.skip(str(reason))
    with running_server(tmp_path_factory.mktemp("preflight")) as server:
        yield server


@pytest.fixture
def cluster(changing_server: KubernetesServer, impatient: None) -> Kubernetes:
    """That server with every definition as it should be."""
    restore(changing_server)
    return Kubernetes(changing_server, changing_server.new_namespace())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again soon for what is missing."""
    monkeypatch.setattr(preflight, "LOOK_SECONDS", 0.5)
