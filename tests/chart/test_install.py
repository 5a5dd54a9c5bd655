"""The chart on a real API server: everything is accepted, and nothing is lost by an upgrade or an uninstall."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.api.samples import POOL
from tests.chart.cases import CASES
from tests.chart.conftest import DEFINITIONS
from tests.chart.helm import CHART, Helm, HelmError, Json, one
from tests.interplay.neighbours import install
from tests.kubernetes import KubernetesServer

RESTRICTED = "pod-security.kubernetes.io/enforce"


def ensure_namespace(server: KubernetesServer, name: str, **labels: str) -> str:
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    server.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(body))
    return name


def put(helm: Helm, namespace: str, values: Json | None = None, *, release: str = "shoal", chart: Path = CHART,
        options: tuple[str, ...] = ("--take-ownership",)) -> None:  # fmt: skip
    """Install or upgrade, over the definitions of another test's release; no pod runs, so none is waited for."""
    where = (f"--namespace={namespace}", "--install", "--create-namespace")
    helm.run("upgrade", release, str(chart), *where, *options, values=values or {})


@pytest.mark.parametrize("case", [name for name in CASES if name != "minimal"])
def test_every_object_is_accepted(helm: Helm, server: KubernetesServer, case: str) -> None:
    if case == "everything":
        install(server, "prometheus-operator")
    for namespace in ("shoal-system", "training"):
        ensure_namespace(server, namespace)
    # helm's own text: another writer's numbers and quotes would be another chart.
    text = helm.text(CASES[case])
    # A dry run stores no definition, so there is nothing that a conflict could be with.
    done = server.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)
    assert done.count("serverside-applied") == text.count("\nkind: ")


def test_the_restricted_standard_takes_the_pods(helm: Helm, server: KubernetesServer) -> None:
    namespace = ensure_namespace(server, "restricted", **{RESTRICTED: "restricted"})
    for name in CASES:
        template = one(helm.render(CASES[name]), "Deployment")["spec"]["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = {**template["metadata"], "name": name, "namespace": namespace}
        pod["spec"].pop("priorityClassName", None)
        arguments = ("create", "--dry-run=server", "--validate=strict", "-f", "-", "-o", "name")
        assert server.kubectl(*arguments, stdin=json.dumps(pod)).strip() == f"pod/{name}"


def test_install_upgrade_rollback_and_uninstall_keep_every_object(
    installed: Helm, server: KubernetesServer, tmp_path: Path
) -> None:
    put(installed, "life")
    server.kubectl("wait", "--for=condition=Established", "--timeout=20s", *[f"crd/{name}" for name in DEFINITIONS])
    server.kubectl("-n", "life", "create", "-f", "-", stdin=json.dumps(POOL))
    uid = uid_of_pool(server)

    put(installed, "life", chart=newer(tmp_path / "newer"))
    assert columns(server) == {"Newer"}, "the definitions are upgraded with the chart"
    installed.run("rollback", "shoal", "1", "--namespace=life")
    assert "Newer" not in columns(server)
    installed.run("uninstall", "shoal", "--namespace=life")
    assert uid_of_pool(server) == uid, "the definitions and what they define outlive the release"
    assert "NotFound" in server.kubectl("-n", "life", "get", "deployment", "shoal-operator", check=False)

    put(installed, "life", options=())
    assert uid_of_pool(server) == uid
    installed.run("uninstall", "shoal", "--namespace=life")
    with pytest.raises(HelmError, match="cannot be imported into the current release"):
        put(installed, "life", release="other", options=())
    put(installed, "life", release="other")
    assert uid_of_pool(server) == uid


def test_definitions_that_are_not_to_be_kept_go(installed: Helm, server: KubernetesServer) -> None:
    put(installed, "loose", {"crds": {"keep": False}})
    installed.run("uninstall", "shoal", "--namespace=loose", "--wait", "--timeout=30s")
    assert not server.kubectl("get", "crd", "--ignore-not-found", *DEFINITIONS).strip()


def test_definitions_of_somebody_else_are_left_alone(installed: Helm, server: KubernetesServer) -> None:
    for file in sorted((CHART / "files" / "crds").iterdir()):
        server.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(file))
    with pytest.raises(HelmError, match="cannot be imported into the current release"):
        put(installed, "others", options=())
    versions = ("get", "crd", *DEFINITIONS, "-o", "jsonpath={.items[*].spec}")
    before = server.kubectl(*versions)
    put(installed, "others", {"crds": {"enabled": False}}, options=())
    assert server.kubectl(*versions) == before


def test_users_get_their_namespace_by_the_clusters_own_roles(installed: Helm, server: KubernetesServer) -> None:
    put(installed, "users")
    for user, role in (("eve", "edit"), ("vic", "view")):
        binding = ("create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}", "-n", "users")
        server.kubectl(*binding)
    wait_for(lambda: may(server, "eve", "create", "rljobs"), "the controller manager adds the rules up")
    assert may(server, "eve", "update", "environmentpools/scale")
    assert not may(server, "eve", "patch", "rljobs/status")
    wait_for(lambda: may(server, "vic", "list", "rolloutfleets"), "the controller manager adds the rules up")
    assert not may(server, "vic", "create", "rljobs")


def test_notes_tell_a_first_command_that_works(installed: Helm, server: KubernetesServer) -> None:
    put(installed, "notes", {"watchNamespaces": ["notes"]})
    text = installed.run("get", "notes", "shoal", "--namespace=notes")
    manifest = text.partition("<<'END'\n")[2].partition("\n  END")[0]
    server.kubectl("wait", "--for=condition=Established", "--timeout=20s", *[f"crd/{name}" for name in DEFINITIONS])
    server.kubectl("-n", "notes", "create", "--validate=strict", "-f", "-", stdin=manifest)
    assert "in notes and works in namespace notes." in text


# --- helpers


def newer(folder: Path) -> Path:
    """The chart as of a later version, whose definitions show one column more."""
    shutil.copytree(CHART, folder)
    file = folder / "files" / "crds" / "environmentpools.yaml"
    body = yaml.safe_load(file.read_text())
    column = {"name": "Newer", "type": "string", "jsonPath": ".spec.newer"}
    body["spec"]["versions"][0]["additionalPrinterColumns"] = [column]
    file.write_text(yaml.safe_dump(body))
    return folder


def columns(server: KubernetesServer) -> set[str]:
    path = "jsonpath={.spec.versions[0].additionalPrinterColumns[*].name}"
    return set(server.kubectl("get", "crd", "environmentpools.rl.shoal.dev", "-o", path).split())


def uid_of_pool(server: KubernetesServer) -> str:
    return server.kubectl("-n", "life", "get", "envpool", "sample", "-o", "jsonpath={.metadata.uid}")


def may(server: KubernetesServer, user: str, verb: str, resource: str) -> bool:
    kind, _, subresource = resource.partition("/")
    what = (f"{kind}.rl.shoal.dev", *([f"--subresource={subresource}"] if subresource else []))
    return server.kubectl("auth", "can-i", verb, *what, f"--as={user}", "-n", "users", check=False).startswith("yes")


def wait_for(true: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.3)
