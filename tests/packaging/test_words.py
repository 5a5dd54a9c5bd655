"""One meaning for each word: a class name stands once in the tree."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("operator", "workers", "embedded", "images", "e2e", "bench", "tests", "examples")

STILL_TWICE = frozenset(
    [
        "Answer",
        "Backend",
        "Batch",
        "Bench",
        "Branch",
        "Call",
        "Candidate",
        "Case",
        "Change",
        "Clock",
        "Cluster",
        "ControlPlane",
        "DataManager",
        "Decision",
        "Driver",
        "Endpoint",
        "EnginePhase",
        "EnvironmentSource",
        "Episode",
        "FakeBroker",
        "FakeClient",
        "FakeClock",
        "FakeDiscovery",
        "FakeEnvironment",
        "FakeGateway",
        "FakeNode",
        "FakeServer",
        "FakeService",
        "FakeStatus",
        "FakeWorld",
        "Figures",
        "Gateway",
        "Grant",
        "Harness",
        "Held",
        "Helm",
        "Holder",
        "InvalidActionPolicy",
        "Kind",
        "LeaseLostError",
        "Limits",
        "Load",
        "Member",
        "Node",
        "Objects",
        "Observation",
        "Outcome",
        "Parser",
        "Place",
        "Plan",
        "Problem",
        "Progress",
        "Reference",
        "Registration",
        "Registry",
        "Report",
        "Resource",
        "Row",
        "Run",
        "Sampling",
        "SeedRange",
        "Session",
        "Stage",
        "StatusError",
        "Step",
        "Store",
        "Surroundings",
        "Target",
        "TemplateError",
        "Transport",
        "Tree",
        "Trouble",
        "Usage",
        "Verdict",
        "Watch",
        "World",
        "Written",
        "_Metrics",
    ]
)
"""Names that still mean several things. Take a name out when you rename a class; add none."""


def classes() -> dict[str, list[str]]:
    """Class name -> the modules, relative to the checkout, that define it."""
    found: dict[str, list[str]] = defaultdict(list)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    found[node.name].append(str(path.relative_to(ROOT)))
    return found


def test_no_further_class_name_has_two_meanings() -> None:
    twice = {name: where for name, where in classes().items() if len(where) > 1}
    assert {name: where for name, where in twice.items() if name not in STILL_TWICE} == {}
