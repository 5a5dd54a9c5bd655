"""The operator under the account that the chart makes: nothing that it needs is denied, and nothing else is allowed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shoal.api.labels import RENEW_TOKEN
from shoal.neighbours.registry import ALL_RULES
from tests.api.samples import FLEET, JOB, POOL
from tests.chart.audit import read_audit
from tests.chart.conftest import DEFINITIONS
from tests.chart.helm import Helm, Json
from tests.chart.test_install import ensure_namespace, put, wait_for
from tests.kubernetes import KubernetesServer, free_ports

WORK = "work"
"""The namespace with pools, fleets and jobs."""


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": [WORK]}], ids=["everywhere", "one-namespace"])
def test_nothing_is_denied(installed: Helm, server: KubernetesServer, tmp_path: Path, values: Json) -> None:
    ensure_namespace(server, WORK)
    home = "narrow" if values else "wide"
    put(installed, home, values)
    server.kubectl("wait", "--for=condition=Established", "--timeout=20s", *[f"crd/{name}" for name in DEFINITIONS])
    with operator(installed, server, tmp_path, home) as until:
        for body in manifests():
            server.kubectl("-n", WORK, "apply", "--server-side", "-f", "-", stdin=json.dumps(body))
        until(lambda: count(server, "pods") >= 4, "members, broker, engines, gateway")
        until(lambda: count(server, "envpool,fleet") == 4, "the pool and the fleet that the job describes")
        until(lambda: count(server, "events") > 0, "events")
        server.kubectl("-n", WORK, "patch", "envpool/sample", "--type=merge", "-p", '{"spec":{"replicas":1}}')
        until(lambda: used(server, home, "", "pods", "delete"), "a pod is taken back")
        server.kubectl("-n", WORK, "annotate", "secret", "--all", f"{RENEW_TOKEN}=now")
        until(lambda: used(server, home, "", "secrets", "patch"), "tokens are renewed")
        server.kubectl("-n", WORK, "delete", "rlj,envpool,fleet,secret", "--all", "--wait=false")
    audited = read_audit(server.folder, home)
    assert audited.denied == frozenset()
    granted = {(rule.group, each, verb) for rule in ALL_RULES for each in rule.resources for verb in rule.verbs}
    assert {use for use in audited.answered if use[1] not in REVIEWS} <= granted, "more is allowed than the list says"
    assert {use for use in granted - SELDOM if use[:2] in ALWAYS} <= audited.answered


REVIEWS = ("selfsubjectaccessreviews", "selfsubjectreviews")
"""Every account may ask what it may do."""
ALWAYS = {
    ("", "pods"),
    ("", "services"),
    ("", "secrets"),
    ("", "events"),
    ("coordination.k8s.io", "leases"),
    ("networking.k8s.io", "networkpolicies"),
    ("rl.shoal.dev", "environmentpools"),
    ("rl.shoal.dev", "rolloutfleets"),
    ("rl.shoal.dev", "environmentpools/status"),
    ("rl.shoal.dev", "rolloutfleets/status"),
    ("rl.shoal.dev", "rljobs/status"),
}
"""What these few resources make the operator use, all of it; the rest takes scenarios of its own."""
SELDOM = {("", "events", "patch"), ("", "events", "list")}
"""For an event that is repeated, and for a pod that does not start."""


def manifests() -> list[Json]:
    """One resource of each kind, the job with a pool and a fleet of its own."""
    pool = {**POOL, "spec": {**POOL["spec"], "replicas": 3}}
    job = json.loads(json.dumps(JOB))
    job["spec"]["fleet"] = {"template": {"spec": {}}}
    job["spec"]["environments"] = [{"name": "lake", "template": {"spec": POOL["spec"]}}]
    return [pool, FLEET, job]


@contextmanager
def operator(
    helm: Helm, server: KubernetesServer, folder: Path, home: str
) -> Iterator[Callable[[Callable[[], bool], str], None]]:
    """The container of the chart's Deployment as a process of this machine, with a token of its account.

    Gives a function that waits until something is so, and fails when the operator ends meanwhile.
    """
    text = server.kubectl("-n", home, "get", "deployment", "shoal-operator", "-o", "json")
    pod = json.loads(text)["spec"]["template"]["spec"]
    arguments = [arg for arg in pod["containers"][0]["args"] if not arg.startswith("--metrics-listen=")]
    token = server.kubectl("-n", home, "create", "token", pod["serviceAccountName"]).strip()
    kubeconfig = server.write_kubeconfig(folder / "account", token=token)
    command = [sys.executable, "-c", "from shoal.cli.main import main; main()", "operator", *arguments]
    command += [f"--kubeconfig={kubeconfig}", f"--metrics-listen=127.0.0.1:{free_ports(1)[0]}"]
    environment = {**os.environ, "POD_NAMESPACE": home, "POD_NAME": "shoal-operator-0"}
    log = folder / "operator.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, cwd=folder)

    def until(true: Callable[[], bool], what: str) -> None:
        def true_and_alive() -> bool:
            assert process.poll() is None, log.read_text()[-3000:]
            return true()

        wait_for(true_and_alive, what)

    try:
        yield until
    finally:
        process.terminate()
        process.wait(40)
    complaints = [line for line in log.read_text().splitlines() if "forbidden" in line.lower()]
    assert complaints == []


def count(server: KubernetesServer, kind: str) -> int:
    return len(server.kubectl("-n", WORK, "get", kind, "-o", "name", "--ignore-not-found").split())


def used(server: KubernetesServer, home: str, *use: str) -> bool:
    return use in read_audit(server.folder, home).answered
