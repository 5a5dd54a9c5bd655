"""The smallest valid resource of each kind."""

from copy import deepcopy
from typing import Any

Json = dict[str, Any]

POOL: Json = {
    "apiVersion": "rl.shoal.dev/v1alpha1",
    "kind": "EnvironmentPool",
    "metadata": {"name": "sample"},
    "spec": {"environment": {"protocol": "Gymnasium", "entrypoint": "FrozenLake-v1"}},
}
FLEET: Json = {
    "apiVersion": "rl.shoal.dev/v1alpha1",
    "kind": "RolloutFleet",
    "metadata": {"name": "sample"},
    "spec": {"model": {"source": "file:/models/tiny"}},
}
JOB: Json = {
    "apiVersion": "rl.shoal.dev/v1alpha1",
    "kind": "RLJob",
    "metadata": {"name": "sample"},
    "spec": {
        "model": {"source": "file:/models/tiny"},
        "fleet": {"ref": {"name": "fleet"}},
        "environments": [{"name": "lake", "ref": {"name": "pool"}}],
        "trainer": {"steps": 10},
        "storage": {"hostPath": {"path": "/data"}},
    },
}
SAMPLES = {"EnvironmentPool": POOL, "RolloutFleet": FLEET, "RLJob": JOB}


def changed(kind: str, path: str, value: Any) -> Json:
    """The sample with one field set by its path (`spec.scale.min`; digits index lists); None deletes the field."""
    body = deepcopy(SAMPLES[kind])
    *parents, last = path.split(".")
    target: Any = body
    for part in parents:
        target = target[int(part)] if isinstance(target, list) else target.setdefault(part, {})
    if value is None:
        target.pop(last, None)
    elif isinstance(target, list):
        target[int(last)] = value
    else:
        target[last] = value
    return body
