"""What of the Helm chart is generated: permissions and CustomResourceDefinitions from the code, and its README."""

from pathlib import Path

import yaml

from shoal.crdgen import generate, values
from shoal.kube.permissions import Rule
from shoal.neighbours.registry import ALL_RULES

HEADER = (
    "# Generated from operator/shoal/kube/permissions.py by `python -m shoal.crdgen`; change the list, not this file.\n"
)


def files(chart: Path) -> dict[str, str]:
    """Path inside the chart -> content."""
    rules = HEADER + yaml.safe_dump([_rule(rule) for rule in ALL_RULES], sort_keys=False, width=120)
    wanted = {"files/rules.yaml": rules} | {f"files/crds/{name}": text for name, text in generate.files().items()}
    return wanted | ({"README.md": values.readme(chart)} if (chart / "README.md").exists() else {})


def stale(chart: Path) -> list[str]:
    """Paths of the files that are missing or differ from what the code says."""
    return [
        name for name, text in files(chart).items() if not (chart / name).exists() or (chart / name).read_text() != text
    ]


def write(chart: Path) -> list[str]:
    """Write the files; returns the paths of those that changed."""
    changed, wanted = stale(chart), files(chart)
    for name in changed:
        (chart / name).parent.mkdir(parents=True, exist_ok=True)
        (chart / name).write_text(wanted[name])
    return changed


def _rule(rule: Rule) -> dict[str, object]:
    """The rule as RBAC writes it, with what the templates choose by."""
    return {
        "why": rule.why,
        "scope": rule.scope.value,
        "when": rule.when,
        "apiGroups": [rule.group],
        "resources": list(rule.resources),
        "verbs": list(rule.granted),
    }
