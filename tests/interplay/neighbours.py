"""The neighbours' real definitions, installed and removed by plain requests: kubectl takes seconds for each of them."""

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tests.kubernetes import KubernetesServer

Json = dict[str, Any]

DEFINITIONS = Path(__file__).parent / "definitions"
SERVED_SECONDS = 60.0
_COLLECTION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@cache
def definitions(neighbour: str) -> list[Json]:
    """A neighbour's definitions."""
    return [json.loads(line) for line in (DEFINITIONS / f"{neighbour}.jsonl").read_text().splitlines()]


def install(server: KubernetesServer, *neighbours: str) -> None:
    """Install neighbours' definitions and wait until they are served; quick where they are already."""
    bodies = [body for neighbour in neighbours for body in definitions(neighbour)]
    if _served(server, bodies) == _all(bodies):
        return
    for body in bodies:
        if _request(server, "POST", _COLLECTION, body)[0] not in (201, 409):
            raise AssertionError(f"{body['metadata']['name']} was refused")
    _until(lambda: _served(server, bodies) == _all(bodies), f"{neighbours} are not served")


def remove(server: KubernetesServer, neighbour: str) -> None:
    """Remove a neighbour's definitions, and with them all of its objects; returns when nothing is served."""
    bodies = definitions(neighbour)
    for body in bodies:
        _request(server, "DELETE", f"{_COLLECTION}/{body['metadata']['name']}")
    _until(lambda: not _served(server, bodies), f"{neighbour} is still served")
    _until(lambda: all(_gone(server, body) for body in bodies), f"{neighbour} is still there")


def _gone(server: KubernetesServer, body: Json) -> bool:
    return _request(server, "GET", f"{_COLLECTION}/{body['metadata']['name']}")[0] == 404


def _all(bodies: list[Json]) -> set[tuple[str, str]]:
    """(group version, plural) of every served version."""
    return {
        (f"{body['spec']['group']}/{version['name']}", body["spec"]["names"]["plural"])
        for body in bodies
        for version in body["spec"]["versions"]
        if version["served"]
    }


def _served(server: KubernetesServer, bodies: list[Json]) -> set[tuple[str, str]]:
    found = set()
    groups = {group["name"] for group in _request(server, "GET", "/apis")[1].get("groups", [])}
    wanted = _all(bodies)
    for group_version in {each for each, _ in wanted}:
        if group_version.partition("/")[0] in groups:
            listed = _request(server, "GET", f"/apis/{group_version}")[1].get("resources", [])
            found |= {(group_version, each["name"]) for each in listed}
    return found & wanted


def _request(server: KubernetesServer, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
    request = urllib.request.Request(
        f"{server.url}{path}",
        method=method,
        data=json.dumps(body).encode() if body is not None else None,
        headers={"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(
            request, timeout=60, context=ssl.create_default_context(cafile=str(server.certificate))
        ) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, {}


def _until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SERVED_SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
