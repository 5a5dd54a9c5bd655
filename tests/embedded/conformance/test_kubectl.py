"""What people do with kubectl, in its order, on both servers: the output is the same but for known differences."""

from concurrent.futures import ThreadPoolExecutor

from tests.embedded.apiserver.conftest import Embedded, kubectl_program
from tests.embedded.conformance.commands import COMMANDS
from tests.embedded.conformance.conftest import Pair
from tests.embedded.conformance.kubectl import Kubectl
from tests.kubernetes import Kubernetes


def test_kubectl_says_the_same(pair: Pair, embedded: Embedded, kubernetes: Kubernetes) -> None:
    ours = Kubectl(kubectl_program(), embedded.kubeconfig, pair[0].namespace)
    real = Kubectl(kubectl_program(), kubernetes.kubeconfig, pair[1].namespace)
    complaints = []
    with ThreadPoolExecutor(2) as pool:
        outputs = [pool.submit(lambda side: [side.run(each) for each in COMMANDS], side) for side in (ours, real)]
        given, wanted = (each.result() for each in outputs)
    for command, mine, theirs in zip(COMMANDS, given, wanted, strict=True):
        if (mine == theirs) == bool(command.differs):
            what = f"no longer differs: {command.differs}" if command.differs else "differs"
            complaints.append(
                f"kubectl {command.title}: {what}\n  real: {theirs[0]}\n{theirs[1]}\n  ours: {mine[0]}\n{mine[1]}"
            )
    assert not complaints, "\n\n" + "\n\n".join(complaints)
