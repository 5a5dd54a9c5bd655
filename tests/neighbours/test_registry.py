"""One interface for all neighbours: a further one is a folder and a line."""

from pathlib import Path
from typing import Any, ClassVar

import pytest

from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.builders.owner import Owner
from shoal.kube.discovery import Kind, Need
from shoal.kube.permissions import Rule
from shoal.neighbours import registry
from shoal.neighbours.neighbour import Neighbour
from shoal.neighbours.registry import ALL_RULES, NEIGHBOURS, rules_for
from tests.builders.test_pods import JOB_OWNER, POOL_OWNER, pool, training
from tests.neighbours.fakes import FakeDiscovery, neighbourhood

Json = dict[str, Any]
FOLDER = Path(registry.__file__).parent


class FakeVolcano(Neighbour):
    """A fifth neighbour: one more object for each job."""

    need: ClassVar[Need] = Need("volcano", "scheduling.volcano.sh", ("v1beta1",), (Kind("podgroups", "PodGroup"),))
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("scheduling.volcano.sh", ("podgroups",), ("patch",), "Start a job's pods together.", "volcano"),
    )

    def job_children(self, owner: Owner, spec: RLJobSpec, *, resting: bool) -> list[Json]:
        return [{"kind": "PodGroup", "metadata": {"name": owner.name}, "spec": {"minMember": spec.agents.replicas}}]


def test_a_further_neighbours_objects_reach_the_job_by_the_registry_alone() -> None:
    both = neighbourhood(FakeDiscovery("volcano"), (*NEIGHBOURS, FakeVolcano))
    spec = training(agents={"replicas": 3})
    assert [each["kind"] for each in both.job_children(JOB_OWNER, spec, resting=False)] == ["PodGroup"]
    assert neighbourhood(neighbours=NEIGHBOURS).job_children(JOB_OWNER, spec, resting=False) == []
    assert both.installed == ["volcano"]


def test_each_folder_is_registered_with_its_documentation() -> None:
    folders = {path.parent.name for path in FOLDER.glob("*/__init__.py")}
    assert {each.__module__.split(".")[2] for each in NEIGHBOURS} == folders
    assert [name for name in sorted(folders) if not (FOLDER / name / "README.md").read_text().startswith("# ")] == []


def test_every_rule_of_a_neighbour_is_given_only_beside_it() -> None:
    names = {each.need.name for each in NEIGHBOURS}
    assert len(names) == len(NEIGHBOURS)
    for each in NEIGHBOURS:
        assert {rule.when for rule in each.rules} <= {each.need.name}
        others = rules_for(names - {each.need.name})
        assert [rule for rule in ALL_RULES if rule not in others] == list(each.rules)


@pytest.mark.parametrize(("backend", "kind"), [("Pod", "Pod"), ("AgentSandbox", "Sandbox")])
def test_a_member_is_a_pod_unless_its_pool_asks_a_neighbour_for_it(backend: str, kind: str) -> None:
    pod = {"kind": "Pod", "metadata": {"labels": {}, "annotations": {}, "namespace": "ns", "generateName": "p-",
           "ownerReferences": []}, "spec": {}}  # fmt: skip
    assert neighbourhood().member(POOL_OWNER, pool(backend=backend), pod)["kind"] == kind
