"""What people do with kubectl: each a command line run against both servers, whose output must be the same."""

from dataclasses import dataclass, field

POOL = """\
apiVersion: rl.shoal.dev/v1alpha1
kind: EnvironmentPool
metadata: { name: NAME, labels: { app: lake } }
spec:
  environment: { protocol: Gymnasium, entrypoint: FrozenLake-v1 }
  scale: { min: 2, max: 20 }
"""
FLEET = """\
apiVersion: rl.shoal.dev/v1alpha1
kind: RolloutFleet
metadata: { name: policy }
spec:
  model: { source: "hf:some/model", maxModelLen: 128 }
  workerGroups: [{ name: cpu, replicas: { min: 1, max: 2 } }]
"""
JOB = """\
apiVersion: rl.shoal.dev/v1alpha1
kind: RLJob
metadata: { name: lake }
spec:
  model: { source: "hf:some/model", maxModelLen: 128 }
  storage: { hostPath: { path: /var/lib/shoal } }
  environments: [{ name: lake, ref: { name: lake } }]
  fleet: { ref: { name: policy } }
  trainer: { steps: 1 }
"""
MAP = """\
apiVersion: v1
kind: ConfigMap
metadata: { name: NAME, labels: { part: pruned } }
data: { key: "VALUE" }
"""
POD = """\
apiVersion: v1
kind: Pod
metadata: { name: NAME }
spec: { schedulerName: nobody, containers: [{ name: a, image: some/image }] }
"""
EVENT = """\
apiVersion: v1
kind: Event
metadata: { name: lake.1, namespace: NAMESPACE }
involvedObject: { apiVersion: rl.shoal.dev/v1alpha1, kind: EnvironmentPool, name: lake, namespace: NAMESPACE }
reason: Scaled
message: from 1 to 2
type: Normal
source: { component: shoal }
"""


COMPLETE = (
    '{"status":{"conditions":[{"type":"Complete","status":"True","reason":"Done","message":"",'
    '"lastTransitionTime":"2026-01-01T00:00:00Z"}]}}'
)
"""The patch of a status that says a job is complete."""


def named(text: str, name: str, value: str = "") -> str:
    """A manifest with its name, and its value, put in."""
    return text.replace("NAME", name, 1).replace("VALUE", value)


def altogether(*manifests: str) -> str:
    """Several manifests in one file."""
    return "---\n".join(manifests)


@dataclass(frozen=True)
class Command:
    """A command line after `kubectl`; NAMESPACE in it and in its input stands for the side's namespace.

    Args:
        stdin: what it reads.
        env: environment variables beside the usual ones.
        ends: seconds after which it is ended, for one that would go on; 0 for one that ends by itself.
        rows: whether the order of the lines means nothing.
        differs: why the embedded server's output is another one.
    """

    title: str
    stdin: str = ""
    env: dict[str, str] = field(default_factory=dict)
    ends: float = 0
    rows: bool = False
    differs: str = ""


EDIT = "sed -i s/max:.20/max:\\ 30/"
ALL = altogether(named(POOL, "lake"), FLEET, JOB)
COMMANDS = (
    Command("apply -f -", stdin=ALL),
    Command("apply -f -", stdin=ALL),
    Command("apply -f - --dry-run=server", stdin=named(POOL, "lake").replace("20", "21")),
    Command("apply -f -", stdin=named(POOL, "lake").replace("20", "x")),
    Command(
        "apply -f -",
        stdin=named(POOL, "lake").replace("scale", "skale"),
        differs="an unknown field in a patch is named without the whole object before it",
    ),
    Command("get rlj,envpool,fleet"),
    Command("get shoal", rows=True),
    Command("get rl", rows=True),
    Command("get envpool lake -o wide"),
    Command("get envpool lake -o yaml --show-managed-fields"),
    Command("get envpool -l app=lake -o name"),
    Command("get envpool --field-selector metadata.name=none"),
    Command("get envpool none"),
    Command("get nonsense"),
    Command("get envpool -w", ends=1.5),
    Command("get envpool lake -o jsonpath={.spec.scale.max}"),
    Command("get envpool --sort-by=.metadata.name --no-headers"),
    Command("diff -f -", stdin=named(POOL, "lake").replace("20", "25")),
    Command("edit envpool lake", env={"KUBE_EDITOR": EDIT}),
    Command("edit envpool lake", env={"KUBE_EDITOR": "true"}),
    Command("get envpool lake -o jsonpath={.spec.scale}"),
    Command('patch envpool lake --type=merge -p {"spec":{"scale":{"max":12}}}'),
    Command('patch envpool lake --type=json -p [{"op":"replace","path":"/spec/scale/max","value":13}]'),
    Command('patch envpool lake -p {"spec":{"scale":{"max":14}}}'),
    Command(f"patch rlj lake --subresource=status --type=merge -p {COMPLETE}"),
    Command("get rlj lake --subresource=status -o name"),
    Command("wait --for=condition=Complete rlj/lake --timeout=20s"),
    Command("wait --for=jsonpath={.spec.scale.max}=13 envpool/lake --timeout=20s"),
    Command("label envpool lake tier=a"),
    Command("label envpool lake tier=b"),
    Command("label envpool lake tier=b --overwrite"),
    Command("label envpool lake tier-"),
    Command("annotate envpool lake note=x"),
    Command("annotate envpool lake note-"),
    Command("scale envpool lake --replicas=5"),
    Command("scale envpool lake --replicas=5 --current-replicas=2"),
    Command("get envpool lake -o jsonpath={.spec.replicas}"),
    Command("create -f -", stdin=EVENT),
    Command("describe envpool lake"),
    Command("describe rlj lake"),
    Command("events"),
    Command("events --for envpool/lake"),
    Command("get events"),
    Command("create -f -", stdin=named(MAP, "made", "1")),
    Command("create -f -", stdin=named(MAP, "made", "1")),
    Command("create configmap more --from-literal=a=b"),
    Command("create secret generic hidden --from-literal=a=b"),
    Command("describe secret hidden"),
    Command("get cm made -o yaml"),
    Command("replace -f -", stdin=named(MAP, "made", "2")),
    Command("replace -f -", stdin=named(MAP, "none", "2")),
    Command("get configmaps made -o jsonpath={.data.key}"),
    Command("apply -f - --prune -l part=pruned --prune-allowlist=core/v1/ConfigMap", stdin=named(MAP, "kept", "1")),
    Command("get cm -l part"),
    Command("apply --server-side -f -", stdin=named(MAP, "kept", "2")),
    Command("apply --server-side --force-conflicts -f -", stdin=named(MAP, "kept", "2")),
    Command("apply --server-side --field-manager=other -f -", stdin=named(MAP, "kept", "3")),
    Command("create -f -", stdin=named(POD, "one")),
    Command("get pods"),
    Command("get pods -o wide"),
    Command("set image pod/one a=other/image"),
    Command("get all", rows=True),
    Command("describe pod one", differs="the service account and its mount are not in a pod's description"),
    Command(
        "logs one",
        differs="the log of a pod on no node is refused with the reason; kube-apiserver answers with nothing",
    ),
    Command("delete pod one --now"),
    Command("expose --help"),
    Command("explain rljob.spec.trainer"),
    Command("explain envpool --recursive"),
    Command("explain fleet.spec.nonsense"),
    Command("explain pod.spec", differs="built-in kinds have no schema here, so there is nothing to explain"),
    Command("api-resources --api-group=rl.shoal.dev", rows=True),
    Command("api-resources --categories=shoal", rows=True),
    Command("api-versions", differs="it lists the groups that the embedded server has"),
    Command("version", differs="it says v1.34.0+shoal"),
    Command(
        "auth can-i create rlj",
    ),
    Command("get --raw /readyz"),
    Command("delete envpool lake --cascade=orphan"),
    Command("delete rlj --all"),
    Command("delete fleet policy none"),
    Command("delete cm,secret -l part=pruned"),
    Command("get rlj,envpool,fleet"),
)
