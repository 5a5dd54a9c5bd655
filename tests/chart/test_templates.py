"""What holds for every rendering of the chart, and what single values change."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal.api.labels import PORTS, Role
from shoal.cli.operator import command
from shoal.crdgen import chart, generate, values
from shoal.engine.metrics import Metrics
from shoal.kube.permissions import Scope
from shoal.neighbours.registry import ALL_RULES, NEEDS, rules_for
from shoal_workers.telemetry import names
from tests.chart.cases import CASES, EVERYTHING, MINIMAL
from tests.chart.helm import CHART, NAMESPACE, Helm, Json, of_kind, one

ROOT = CHART.parents[1]
ROLES = ("ClusterRole", "Role")


def granted(objects: list[Json], scope: str = "") -> set[tuple[str, str, str]]:
    """(group, resource, verb) of every role of the operator's account, or of those of one kind."""
    bound = {
        (binding["roleRef"]["kind"], binding["roleRef"]["name"])
        for kind in ("ClusterRoleBinding", "RoleBinding")
        for binding in of_kind(objects, kind)
    }
    roles = [body for kind in ROLES for body in of_kind(objects, kind) if not scope or kind == scope]
    return {
        (group, resource, verb)
        for role in roles
        if (role["kind"], role["metadata"]["name"]) in bound
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def listed(*scopes: Scope, neighbours: set[str] | None = None) -> set[tuple[str, str, str]]:
    return {
        (rule.group, resource, verb)
        for rule in rules_for({need.name for need in NEEDS} if neighbours is None else neighbours)
        if rule.scope in scopes
        for resource in rule.resources
        for verb in rule.granted
    }


# --- permissions


def test_roles_are_the_list(helm: Helm) -> None:
    objects = helm.render()
    assert granted(objects, "ClusterRole") == listed(Scope.WATCHED, Scope.CLUSTER)
    assert granted(objects, "Role") == listed(Scope.OWN)


def test_one_namespace_needs_nothing_cluster_wide_but_what_has_no_namespace(helm: Helm) -> None:
    objects = helm.render({"watchNamespaces": ["training"]})
    assert granted(objects, "ClusterRole") == listed(Scope.CLUSTER)
    watched = one(objects, "Role", "shoal-operator")
    assert watched["metadata"]["namespace"] == "training"
    assert granted(objects, "Role") == listed(Scope.WATCHED, Scope.OWN)
    for binding in of_kind(objects, "RoleBinding"):
        assert [each["namespace"] for each in binding["subjects"]] == [NAMESPACE]
    assert "--namespace=training" in container(objects)["args"]


def test_one_namespace_can_be_had_without_any_cluster_wide_object(helm: Helm) -> None:
    kinds = {body["kind"] for body in helm.render(CASES["one-namespace-alone"])}
    assert not kinds & {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "PriorityClass"}


@pytest.mark.parametrize(
    ("switch", "neighbour"),
    [
        ("kueue", "kueue"),
        ("kuberay", "kuberay"),
        ("agentSandbox", "agent-sandbox"),
        ("leaderWorkerSet", "leaderworkerset"),
    ],
)
def test_a_neighbour_can_be_left_out(helm: Helm, switch: str, neighbour: str) -> None:
    objects = helm.render({"interplay": {switch: False}})
    everything = listed(*Scope)
    assert granted(objects) == listed(*Scope, neighbours={need.name for need in NEEDS} - {neighbour})
    assert granted(objects) < everything


def test_no_wildcard_and_nothing_that_leads_to_more(helm: Helm) -> None:
    for name in CASES:
        for role in [body for kind in ROLES for body in of_kind(helm.render(CASES[name]), kind)]:
            for rule in role["rules"]:
                assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], role["metadata"]["name"]
                assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
                assert "nonResourceURLs" not in rule
    secrets = {verb for group, resource, verb in listed(*Scope) if (group, resource) == ("", "secrets")}
    assert secrets == {"list", "watch", "create", "patch"}
    assert not [use for use in listed(*Scope) if use[1] in ("pods/exec", "pods/attach", "nodes", "configmaps")]


def test_each_rule_says_why_and_grants_something() -> None:
    for rule in ALL_RULES:
        assert rule.granted, rule
        assert rule.why.endswith("."), rule
        assert not set(rule.verbs) & set(rule.implied), rule


def test_users_get_the_kinds_and_never_the_status(helm: Helm) -> None:
    objects = helm.render()
    edit = one(objects, "ClusterRole", "shoal-edit")
    view = one(objects, "ClusterRole", "shoal-view")
    assert not [resource for rule in edit["rules"] for resource in rule["resources"] if resource.endswith("/status")]
    assert {verb for rule in view["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert "rbac.authorization.k8s.io/aggregate-to-view" not in edit["metadata"]["labels"]
    definitions = {body["spec"]["names"]["plural"]: body for body in generate.definitions()}
    scalable = {name for name, body in definitions.items() if "scale" in body["spec"]["versions"][0]["subresources"]}
    assert {resource for rule in view["rules"] for resource in rule["resources"] if "/" not in resource} == set(
        definitions
    )
    for role in (edit, view):
        scaled = {each.partition("/")[0] for rule in role["rules"] for each in rule["resources"] if "/scale" in each}
        assert scaled == scalable


# --- definitions


def test_generated_files_are_those_of_the_code() -> None:
    assert chart.stale(CHART) == []


def test_definitions_are_kept_upgraded_and_left_out(helm: Helm) -> None:
    kept = of_kind(helm.render(), "CustomResourceDefinition")
    assert len(kept) == len(generate.definitions())
    for body, original in zip(kept, sorted(generate.definitions(), key=_name), strict=True):
        assert body["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
        assert body["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        assert body["spec"] == original["spec"]
    loose = of_kind(helm.render({"crds": {"keep": False}}), "CustomResourceDefinition")
    assert all("annotations" not in body["metadata"] for body in loose)
    assert not of_kind(helm.render({"crds": {"enabled": False}}), "CustomResourceDefinition")
    # Helm's own folder for them would never be upgraded.
    assert not (CHART / "crds").exists()


def _name(body: Json) -> str:
    return str(body["metadata"]["name"])


def test_release_fits_what_helm_can_store(helm: Helm) -> None:
    assert len(helm.text(EVERYTHING).encode()) < 500_000


# --- the operator's pods


def container(objects: list[Json]) -> Json:
    found: Json = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return found


def test_pods_are_restricted(helm: Helm) -> None:
    for name in CASES:
        objects = helm.render(CASES[name])
        pod = one(objects, "Deployment")["spec"]["template"]["spec"]
        security, own = pod["securityContext"], container(objects)["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own["allowPrivilegeEscalation"] is False
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert container(objects)["resources"]["requests"]
        assert {"name": "tmp", "mountPath": "/tmp"} in container(objects)["volumeMounts"]


def test_arguments_are_those_of_the_command(helm: Helm) -> None:
    for name in CASES:
        main = container(helm.render(CASES[name]))
        assert main["command"] == ["shoal", "operator"]
        context = command.make_context("operator", list(main["args"]))
        images = dict(image.split("=", 1) for image in context.params["images"])
        assert set(images) == set(PORTS), "every role has an image"
        assert context.params["metrics_listen"] == "[::]:8080"
        assert [port["containerPort"] for port in main["ports"]] == [8080]


def test_the_pod_takes_what_is_added_to_it(helm: Helm) -> None:
    pod = one(helm.render(EVERYTHING), "Deployment")["spec"]["template"]["spec"]
    main, proxy = pod["containers"]
    assert (main["name"], proxy["name"]) == ("operator", "proxy")
    assert [volume["name"] for volume in pod["volumes"]] == [mount["name"] for mount in main["volumeMounts"]]
    assert pod["hostAliases"][0]["ip"] == "192.0.2.1"
    assert main["livenessProbe"]["failureThreshold"] == 12
    assert main["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert main["readinessProbe"]["periodSeconds"] == 5
    context = command.make_context("operator", list(main["args"]))
    assert (context.params["log_level"], context.params["log_format"]) == ("debug", "text")


def test_images(helm: Helm) -> None:
    main = container(helm.render({"image": {"prefix": "r.example.com/x/", "tag": "t"}, "images": {"broker": "own:1"}}))
    images = {arg.split("=")[1]: arg.split("=")[2] for arg in main["args"] if arg.startswith("--image=")}
    assert main["image"] == "r.example.com/x/operator:t"
    assert images == {
        Role.ENVIRONMENT: "r.example.com/x/environment:t",
        Role.BROKER: "own:1",
        Role.GATEWAY: "r.example.com/x/services:t",
        Role.DATA: "r.example.com/x/services:t",
        Role.AGENT: "r.example.com/x/agent:t",
        Role.ENGINE: "r.example.com/x/rollout:t",
        Role.TRAINER: "r.example.com/x/trainer:t",
    }


def test_two_operators_never_work_side_by_side(helm: Helm) -> None:
    elected, alone = helm.render(), helm.render(MINIMAL)
    assert "--leader-elect" in container(elected)["args"]
    assert "--leader-elect" not in container(alone)["args"]
    assert one(alone, "Deployment")["spec"]["strategy"] == {"type": "Recreate"}


def test_budget_only_where_a_node_can_still_be_drained(helm: Helm) -> None:
    assert one(helm.render(), "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert not of_kind(helm.render({"operator": {"replicas": 1}}), "PodDisruptionBudget")
    assert not of_kind(helm.render({"podDisruptionBudget": {"enabled": False}}), "PodDisruptionBudget")


def test_operators_are_kept_apart(helm: Helm) -> None:
    deployment = one(helm.render(), "Deployment")
    [spread] = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"] == deployment["spec"]["selector"]


def test_priority_class_is_used_as_made(helm: Helm) -> None:
    objects = helm.render({"priorityClass": {"create": True, "value": 7}})
    made = one(objects, "PriorityClass")
    assert made["value"] == 7
    assert one(objects, "Deployment")["spec"]["template"]["spec"]["priorityClassName"] == _name(made)
    theirs = helm.render({"priorityClass": {"name": "theirs"}})
    assert not of_kind(theirs, "PriorityClass")
    assert one(theirs, "Deployment")["spec"]["template"]["spec"]["priorityClassName"] == "theirs"


# --- names and labels


@pytest.mark.parametrize(
    ("release", "values_", "name"),
    [
        ("shoal", {}, "shoal-operator"),
        ("rl", {}, "rl-shoal-operator"),
        ("my-shoal", {}, "my-shoal-operator"),
        ("rl", {"nameOverride": "pools"}, "rl-pools-operator"),
        ("rl", {"fullnameOverride": "ours"}, "ours-operator"),
    ],
)
def test_names(helm: Helm, release: str, values_: Json, name: str) -> None:
    assert _name(one(helm.render(values_, release=release), "Deployment")) == name


def test_long_names_are_cut_and_stay_apart(helm: Helm) -> None:
    seen = set()
    for end in ("a", "b"):
        objects = helm.render({**EVERYTHING, "fullnameOverride": "n" * 100 + end}, release="r" * 53)
        for body in objects:
            if body["kind"] != "CustomResourceDefinition":
                assert len(_name(body)) <= 63, _name(body)
                assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", _name(body))
            assert all(len(str(value)) <= 63 for value in body["metadata"].get("labels", {}).values())
        seen.add(_name(one(objects, "Deployment")))
    assert len(seen) == 2


def test_two_releases_share_no_name_but_the_definitions(helm: Helm) -> None:
    keys = [
        {(body["kind"], _name(body)) for body in helm.render(EVERYTHING, release=release) if body["kind"] not in SHARED}
        for release in ("one", "two")
    ]
    assert not keys[0] & keys[1]


SHARED = ("CustomResourceDefinition",)


def test_labels_are_on_every_object_and_selectors_have_no_version(helm: Helm) -> None:
    objects = helm.render(EVERYTHING)
    for body in objects:
        if _name(body) != "shoal-extra":  # an extra object is the user's own
            assert body["metadata"]["labels"]["cost-center"] == "42", body["kind"]
            assert body["metadata"]["labels"]["helm.sh/chart"].startswith("shoal-")
            # The operator caches by this label what it made itself.
            assert body["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
    deployment = one(objects, "Deployment")
    selector = deployment["spec"]["selector"]["matchLabels"]
    pod = deployment["spec"]["template"]["metadata"]["labels"]
    assert set(selector.items()) <= set(pod.items())
    assert pod["team"] == "rl"
    # Were the chart's version in it, an upgrade of the chart alone would restart the operator.
    assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(pod)
    assert one(objects, "Service")["spec"]["selector"] == selector
    assert one(objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"] == selector


# --- network


def test_operator_may_talk_to_the_api_server_dns_and_its_services_alone(helm: Helm) -> None:
    policy = one(helm.render(), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    server, dns, services = policy["egress"]
    assert [port["port"] for port in server["ports"]] == [443, 6443]
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    asked = {Role.BROKER, Role.GATEWAY, Role.DATA}
    assert {port["port"] for port in services["ports"]} == {PORTS[role] for role in asked}
    [peer] = services["to"]
    assert set(peer["podSelector"]["matchExpressions"][0]["values"]) == asked
    assert peer["namespaceSelector"] == {}
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["metrics"]


def test_network_can_be_narrowed(helm: Helm) -> None:
    policy = one(helm.render({**EVERYTHING, "watchNamespaces": ["training"]}), "NetworkPolicy")["spec"]
    assert policy["egress"][0]["to"] == [{"ipBlock": {"cidr": "192.0.2.0/24"}}]
    selected = policy["egress"][2]["to"][0]["namespaceSelector"]["matchLabels"]
    assert selected == {"kubernetes.io/metadata.name": "training"}
    assert policy["ingress"][0]["from"] == EVERYTHING["networkPolicy"]["metricsFrom"]


# --- monitoring


def unknown_metrics(expression: str) -> set[str]:
    """Metrics in an expression that neither the operator nor a service publishes."""
    known = set(re.findall(r"^# TYPE (\S+)", Metrics().render(), re.MULTILINE))
    known |= {value for name, value in vars(names).items() if name.isupper()}
    used = set(re.findall(r"\bshoal_[a-z_]+", expression))
    assert used, expression
    return {each for each in used if not known & {each, re.sub(r"_(total|bucket)$", "", each)}}


def test_alerts_use_metrics_that_there_are(helm: Helm) -> None:
    rules = [
        rule for group in one(helm.render(EVERYTHING), "PrometheusRule")["spec"]["groups"] for rule in group["rules"]
    ]
    for rule in rules:
        assert unknown_metrics(rule["expr"]) == set(), rule["alert"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert rule["labels"]["team"] == "rl"
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "description"}
    assert len({rule["alert"] for rule in rules}) == len(rules)


def test_dashboard_shows_metrics_that_there_are(helm: Helm) -> None:
    [text] = one(helm.render(EVERYTHING), "ConfigMap", "shoal-dashboard")["data"].values()
    assert text.strip() == (CHART / "files" / "dashboard.json").read_text().strip()
    panels = [panel for panel in json.loads(text)["panels"] if panel["type"] != "row"]
    for panel in panels:
        assert panel["description"].endswith("."), panel["title"]
        for target in panel["targets"]:
            assert unknown_metrics(target["expr"]) == set(), panel["title"]
    assert len({panel["title"] for panel in panels}) == len(panels)


def test_monitors_are_off_by_default(helm: Helm) -> None:
    kinds = {body["kind"] for body in helm.render()}
    assert not kinds & {"ServiceMonitor", "PodMonitor", "PrometheusRule", "PriorityClass", "ConfigMap"}


# --- the chart itself


def test_versions(helm: Helm) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == project["version"]


def test_every_value_is_described() -> None:
    text = (CHART / "values.yaml").read_text()
    told = {path for path, _ in values.described(text)}

    def leaves(value: Any, path: str) -> set[str]:
        if path in told or not isinstance(value, dict) or not value:
            return {path}
        return {leaf for name, below in value.items() for leaf in leaves(below, f"{path}.{name}" if path else name)}

    assert leaves(yaml.safe_load(text), "") == told


def test_table_of_values() -> None:
    text = "# -- One\n# more.\na: 1\n# no\nb:\n  # -- Two.\n  c: [x]\nd: 2\n"
    assert list(values.described(text)) == [("a", "One more."), ("b.c", "Two.")]
    assert values.table(text).splitlines()[-1] == '| `b.c` | `["x"]` | Two. |'


def test_a_readme_without_a_place_for_the_table_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# shoal\n")
    with pytest.raises(ValueError, match="values: begin"):
        values.readme(tmp_path)
