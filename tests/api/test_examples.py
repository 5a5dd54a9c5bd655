"""Every manifest in examples/ fits the models, and the real API server takes it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal.api.v1alpha1 import KINDS
from shoal.crdgen import generate
from tests.kubernetes import Kubernetes

EXAMPLES = Path(__file__).parents[2] / "examples"
MANIFESTS = sorted(EXAMPLES.rglob("*.yaml"))


def documents() -> list[Any]:
    return [
        pytest.param(document, id=f"{path.relative_to(EXAMPLES)}-{document['kind']}")
        for path in MANIFESTS
        for document in yaml.safe_load_all(path.read_text())
    ]


@pytest.mark.parametrize("document", documents())
def test_fits_its_model(document: dict[str, Any]) -> None:
    (kind,) = [kind for kind in KINDS if kind.resource.kind == document["kind"]]
    kind.model_fields["spec"].annotation.model_validate(document["spec"])


def test_the_api_server_takes_them_all(kubernetes: Kubernetes) -> None:
    kubernetes.kubectl("apply", "--server-side", "-f", "-", stdin=generate.as_yaml())
    kubernetes.kubectl("wait", "--for=condition=Established", "--timeout=20s", "crd", "--all")
    for path in MANIFESTS:
        assert "created" in kubernetes.kubectl("apply", "--dry-run=server", "-f", str(path)), path
