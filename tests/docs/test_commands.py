"""Every kubectl command of the documentation, on the embedded server and on a real one: both say the same."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from shoal.crdgen import generate
from tests.docs.lines import ROOT, Line, lines
from tests.embedded.apiserver.conftest import Embedded, kubectl_program
from tests.embedded.conformance.case import MERGE, Step
from tests.embedded.conformance.cases.common import LEASES
from tests.embedded.conformance.commands import ALL, COMPLETE, Command
from tests.embedded.conformance.conftest import Pair
from tests.embedded.conformance.exchange import Side
from tests.embedded.conformance.kubectl import Kubectl, split
from tests.kubernetes import Kubernetes

LINES = lines()
_GROUP = "/apis/rl.shoal.dev/v1alpha1/namespaces/{namespace}"
POOLS, FLEETS, JOBS = (f"{_GROUP}/{each}" for each in ("environmentpools", "rolloutfleets", "rljobs"))
LEASE = {"metadata": {"name": "shoal-operator"}, "spec": {"holderIdentity": "shoal-operator-0"}}
WATCHED = 2.0
"""Seconds that a command is given that would watch for ever."""
OTHERS = {
    "shoal-system": "the embedded control plane runs the operator as a process, not as a Deployment",
    "delete crd": "every test of the session needs the definitions",
    "--all-namespaces": "other tests' objects are there, too",
}
"""Commands, by a part of them, that this test cannot run, and why."""


def test_the_documentation_has_commands() -> None:
    assert {"get rlj,envpool,fleet", "apply --server-side -f -"} <= {each.text for each in LINES}


def test_what_is_not_run_is_in_the_documentation() -> None:
    assert [part for part in OTHERS if not any(part in each.text for each in LINES)] == []


def prepare(side: Side) -> None:
    """What the commands are about: a pool, a fleet, a job that is complete and the operator's lease, by their names."""
    bodies = [*yaml.safe_load_all(ALL), LEASE]
    for path, body in zip((POOLS, FLEETS, JOBS, LEASES), bodies, strict=True):
        assert side.send(Step("POST", path, body)).code == 201
    assert side.send(Step("PATCH", f"{JOBS}/lake/status", json.loads(COMPLETE), MERGE)).code == 200
    side.close()


def command(line: Line) -> Command:
    """The line with names put in for its placeholders."""
    text = line.text
    for placeholder, kind, name in (("NAME", "fleet", "policy"), ("NAME", "", "lake"), ("=N", "", "=3")):
        if kind in text:
            text = text.replace(placeholder, name)
    if text.endswith("-f -"):
        assert line.piped == "shoal crds", f"{line.page}: what does `{line.text}` read?"
        return Command(text, stdin=generate.as_yaml(), rows=True)
    watched = WATCHED if {"-w", "--watch"} & set(text.split()) else 0
    for file in [word for word in text.split() if word.endswith(".yaml")]:
        text = text.replace(file, str(ROOT / file))
    return Command(text, ends=watched)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.text)
def test_commands_say_the_same(pair: Pair, embedded: Embedded, kubernetes: Kubernetes, line: Line) -> None:
    for part, why in OTHERS.items():
        if part in line.text:
            pytest.skip(why)
    ours = Kubectl(kubectl_program(), embedded.kubeconfig, pair[0].namespace)
    real = Kubectl(kubectl_program(), kubernetes.kubeconfig, pair[1].namespace)

    for side in pair:
        prepare(side)

    def said(side: Kubectl) -> tuple[int, str]:
        return side.run(command(line))

    with ThreadPoolExecutor(2) as pool:
        given, wanted = pool.map(said, (ours, real))
    assert given == wanted, line
    # What a page is about may not be there, but every command is one.
    assert given[0] == (-1 if command(line).ends else 0) or "(NotFound)" in given[1], given


def test_a_patch_may_stand_in_quotes() -> None:
    words = ["patch", "envpool", "NAME", "-p", '{"spec": null}']
    assert split("patch envpool NAME -p '{\"spec\": null}'") == split('patch envpool NAME -p {"spec": null}') == words
