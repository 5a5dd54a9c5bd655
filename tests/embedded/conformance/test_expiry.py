"""Versions that are no longer known, on both servers: pages cannot go on, lists and watches have to begin again."""

import json
import urllib.request
from collections.abc import Iterator

import pytest

from tests.embedded.apiserver.conftest import Embedded
from tests.embedded.conformance.case import WATCH, Step
from tests.embedded.conformance.cases.common import MAPS, config_map
from tests.embedded.conformance.exchange import Side, sides
from tests.kubernetes import Kubernetes, KubernetesServer, ProgramsMissingError, find_programs

HISTORY = 5
OLD = 2
"""A version of before anything that a test does."""


@pytest.fixture
def uncached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    """A real server without the caches in which it has versions that etcd has forgotten."""
    try:
        programs = find_programs()
    except ProgramsMissingError as reason:
        pytest.skip(str(reason))
    server = KubernetesServer(programs, tmp_path_factory.mktemp("uncached"), apiserver_flags=["--watch-cache=false"])
    try:
        server.start()
        yield Kubernetes(server, server.new_namespace())
    finally:
        server.stop()


@pytest.fixture
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """A server that keeps few changes."""
    server = Embedded(tmp_path_factory.mktemp("forgetful"), flags=("--history", str(HISTORY)))
    server.start()
    yield server
    server.end()


def compact(kubernetes: Kubernetes, version: str) -> None:
    """Have etcd forget all versions before this one."""
    body = json.dumps({"revision": version, "physical": True}).encode()
    request = urllib.request.Request(f"{kubernetes.server.etcd_url}/v3/kv/compaction", data=body)
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 200


def begin(side: Side) -> str:
    """Begin a list in pages and go on with writing; returns the version of the last write."""
    for index in range(3):
        assert side.send(Step("POST", MAPS, config_map(f"m{index}", labels={"t": "x"}))).code == 201
    page = Step("GET", f"{MAPS}?labelSelector=t%3Dx&limit=1", save={"token": "metadata.continue"})
    assert side.send(page).code == 200
    for index in range(3 * HISTORY):
        assert side.send(Step("POST", MAPS, config_map(f"later-{index}"))).code == 201
    last = side.send(Step("POST", MAPS, config_map("last")))
    return str(last.body["metadata"]["resourceVersion"])


def test_pages_lists_and_watches_of_forgotten_versions(forgetful: Embedded, uncached: Kubernetes) -> None:
    ours, real = sides(forgetful, uncached)
    begin(ours)
    compact(uncached, begin(real))
    for step in (
        Step("GET", f"{MAPS}?labelSelector=t%3Dx&limit=1&continue={{token}}"),
        Step("GET", f"{MAPS}?resourceVersion={OLD}&resourceVersionMatch=Exact"),
    ):
        told = [(answer.code, answer.body.get("reason")) for answer in (side.send(step) for side in (ours, real))]
        assert told == [(410, "Expired")] * 2, step
    watch = Step(WATCH, f"{MAPS}?watch=true&resourceVersion={OLD}", events=1)
    for side in (ours, real):
        answer = side.send(watch)
        refusal = answer.body[0]["object"] if isinstance(answer.body, list) else answer.body
        assert (refusal["code"], refusal["reason"]) == (410, "Expired"), side.url
        side.close()
