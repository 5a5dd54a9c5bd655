"""A node that is killed and started again goes on with the pods that ran on."""

from __future__ import annotations

import os
import signal

from shoal.kube.resources import PODS
from shoal.planner.observed import view
from shoal_embedded.node.procfs import read_process
from tests.embedded.node.running import (
    NodeProcess,
    PodClient,
    eventually,
    is_ready,
    main_status,
    phase,
    shell,
)

LISTENS = {"exec": {"command": ["/bin/sh", "-c", "test -e pid"]}}
TELLS_PID = "echo $$$$ > pid; echo line; exec sleep 60"


async def _pid(node: NodeProcess, uid: str) -> int:
    text = (node.data / "pods" / uid / "work" / "pid").read_text()
    return int(text)


async def test_pods_survive_a_killed_node(own_node: NodeProcess, own_pods: PodClient) -> None:
    pod = await own_pods.create("lives", shell(TELLS_PID, readinessProbe=LISTENS))
    await own_pods.create("dies", shell("echo $$$$ > pid; sleep 60; exit 7", readinessProbe=LISTENS))
    await own_pods.create("deleted", shell(TELLS_PID, readinessProbe=LISTENS))
    for name in ("lives", "dies", "deleted"):
        await own_pods.until(name, is_ready)
    before = await own_pods.get("lives")
    dies, deleted = await own_pods.get("dies"), await own_pods.get("deleted")
    pids = [await _pid(own_node, each["metadata"]["uid"]) for each in (pod, dies, deleted)]

    own_node.end(signal.SIGKILL)
    assert all(read_process(pid) for pid in pids)
    # While nobody looks: one container's program ends, one pod is deleted.
    for child in [
        each for each in own_node.processes() if (process := read_process(each)) and process.parent == pids[1]
    ]:
        os.kill(child, signal.SIGKILL)
    await own_pods.client.delete(PODS, "deleted", own_pods.namespace, grace_seconds=0)
    own_node.start()

    await own_pods.until("dies", lambda pod: main_status(pod)["restartCount"] == 1 and is_ready(pod))
    ended = main_status(await own_pods.get("dies"))["lastState"]["terminated"]
    assert ended["exitCode"] == 7

    async def is_dead() -> bool:
        process = read_process(pids[2])
        return process is None or not process.alive

    await eventually(is_dead)
    await own_pods.until("lives", is_ready)
    after = await own_pods.get("lives")
    assert main_status(after)["restartCount"] == 0
    assert after["status"]["podIP"] == before["status"]["podIP"]
    assert await _pid(own_node, pod["metadata"]["uid"]) == pids[0]
    still = read_process(pids[0])
    assert still is not None
    assert still.alive

    await own_pods.client.delete(PODS, "lives", own_pods.namespace)
    await own_pods.until_gone("lives")
    assert read_process(pids[0]) is None


async def test_a_lost_shim_leaves_nothing_behind(own_node: NodeProcess, own_pods: PodClient) -> None:
    await own_pods.create("lost", shell("sleep 61 & sleep 62"))
    await own_pods.until("lost", is_ready)
    own_node.end(signal.SIGKILL)
    left = own_node.processes()
    shim = next(pid for pid in left if (process := read_process(pid)) and process.parent not in left)
    os.kill(shim, signal.SIGKILL)
    own_node.start()
    await own_pods.until("lost", lambda pod: main_status(pod)["restartCount"] == 1 and is_ready(pod))
    assert main_status(await own_pods.get("lost"))["lastState"]["terminated"]["reason"] == "ContainerStatusUnknown"
    assert not set(left) & set(own_node.processes())


async def test_sigterm_ends_everything(own_node: NodeProcess, own_pods: PodClient) -> None:
    await own_pods.create("polite", shell("exec sleep 60"))
    await own_pods.create("stubborn", shell("trap '' TERM; (setsid sleep 60 &); sleep 60"))
    await own_pods.create("over", shell("exit 0"), restartPolicy="Never")
    await own_pods.until("over", lambda pod: phase(pod) == "Succeeded")
    for name in ("polite", "stubborn"):
        await own_pods.until(name, is_ready)
    assert own_node.end() == 0
    assert own_node.processes() == []
    # The next start goes on: what must run is started again, what is over stays so.
    own_node.start()
    await own_pods.until("polite", lambda pod: main_status(pod)["restartCount"] == 1 and is_ready(pod))
    assert phase(await own_pods.get("over")) == "Succeeded"


async def test_a_stopped_node_takes_the_blame_for_what_it_ends(own_node: NodeProcess, own_pods: PodClient) -> None:
    """Also where a program ends with 0 when it is told to: it has not done its work, and starts again."""
    told = shell(
        "trap 'exit 0' TERM; touch up; sleep 60 & wait", readinessProbe={"exec": {"command": ["test", "-e", "up"]}}
    )
    await own_pods.create("job", told, restartPolicy="OnFailure")
    await own_pods.create("service", shell(TELLS_PID, readinessProbe=LISTENS))
    for name in ("job", "service"):
        await own_pods.until(name, is_ready)
    for count in (1, 2):
        own_node.end()
        own_node.start()
        for name in ("job", "service"):
            await own_pods.until(
                name, lambda pod, count=count: main_status(pod)["restartCount"] == count and is_ready(pod)
            )
            restarted = await own_pods.get(name)
            assert not view(restarted).own_fault, main_status(restarted)["lastState"]
