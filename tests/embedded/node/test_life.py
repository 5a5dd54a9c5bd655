"""Pods from their start to their end, as processes on a node under a real kube-apiserver."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import orjson

from shoal.kube.resources import PODS, SECRETS
from tests.embedded.node.running import (
    SCHEDULER,
    Json,
    NodeProcess,
    PodClient,
    events,
    eventually,
    is_ready,
    main_status,
    phase,
    python,
    shell,
)

IGNORES_SIGTERM = "trap '' TERM; touch up; sleep 60 & wait; sleep 60"
UP = {"exec": {"command": ["/bin/sh", "-c", "test -e up"]}}


async def test_a_pod_runs_to_its_end(pods: PodClient) -> None:
    await pods.create("once", shell("echo hello; echo bye > $SHOAL_TERMINATION_LOG"), restartPolicy="Never")
    pod = await pods.until("once", lambda pod: phase(pod) == "Succeeded" and pod)
    ended = main_status(pod)["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (0, "Completed", "bye")
    assert pod["status"]["podIP"].startswith("127.")
    await pods.client.delete(PODS, "once", pods.namespace)
    await pods.until_gone("once")


async def test_a_pod_without_a_node_is_bound(pods: PodClient) -> None:
    await pods.create("homeless", shell("exec sleep 60"), nodeName=None, schedulerName=SCHEDULER)
    await pods.until("homeless", is_ready)
    assert (await pods.get("homeless"))["spec"]["nodeName"] == pods.node


async def test_a_burst_of_changes_starts_it_once(pods: PodClient, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    names = [f"burst-{number}" for number in range(5)]

    async def create(name: str) -> None:
        await pods.create(name, shell(f"echo {name} >> {trace}; exec sleep 60"))
        for turn in range(3):
            await pods.client.patch(PODS, name, {"metadata": {"labels": {"turn": str(turn)}}}, pods.namespace)

    await asyncio.gather(*map(create, names))
    for name in names:
        await pods.until(name, is_ready)
    await eventually(lambda: _exists(trace))
    await asyncio.sleep(0.3)
    assert sorted(trace.read_text().split()) == names


async def test_a_device_that_is_not_there_is_named(pods: PodClient) -> None:
    limits = {"limits": {"example.com/quantum": "2"}}
    await pods.create("greedy", shell("sleep 60", resources=limits), nodeName=None, schedulerName=SCHEDULER)

    def reason(pod: Json) -> Any:
        condition = next(each for each in pod["status"]["conditions"] if each["type"] == "PodScheduled")
        return condition.get("message")

    assert "Insufficient example.com/quantum" in await pods.until("greedy", reason)


async def test_crash_loop(pods: PodClient) -> None:
    await pods.create("crash", shell("echo broken >&2; exit 3", terminationMessagePolicy="FallbackToLogsOnError"))
    pod = await pods.until(
        "crash",
        lambda pod: (
            main_status(pod)["restartCount"] >= 2
            and main_status(pod)["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff"
            and pod
        ),
    )
    last = main_status(pod)["lastState"]["terminated"]
    assert (last["exitCode"], last["message"]) == (3, "broken")
    assert phase(pod) == "Running"
    assert not is_ready(pod)
    assert "back-off" in main_status(pod)["state"]["waiting"]["message"]


async def test_on_failure_restarts_until_it_succeeds(pods: PodClient, tmp_path: Path) -> None:
    marker = tmp_path / "second"
    code = f"test -e {marker} && exit 0; touch {marker}; exit 1"
    await pods.create("retry", shell(code), restartPolicy="OnFailure")
    pod = await pods.until("retry", lambda pod: phase(pod) == "Succeeded" and pod)
    assert main_status(pod)["restartCount"] == 1


async def test_never_fails(pods: PodClient) -> None:
    await pods.create("never", shell("kill -9 $$$$"), restartPolicy="Never")
    pod = await pods.until("never", lambda pod: phase(pod) == "Failed" and pod)
    assert main_status(pod)["state"]["terminated"]["exitCode"] == 137


async def test_a_missing_secret_is_named_and_waited_for(pods: PodClient) -> None:
    key = {"valueFrom": {"secretKeyRef": {"name": "late", "key": "token"}}}
    await pods.create("waits", shell("echo $TOKEN > $SHOAL_TERMINATION_LOG", env=[{"name": "TOKEN", **key}]))
    waiting = await pods.until("waits", lambda pod: main_status(pod)["state"]["waiting"].get("message") and pod)
    assert main_status(waiting)["state"]["waiting"] == {
        "reason": "CreateContainerConfigError",
        "message": 'secret "late" not found',
    }
    assert phase(waiting) == "Pending"
    await eventually(lambda: events(pods.client, pods.namespace, "Failed"))
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late"}, "stringData": {"token": "sesame"}}
    await pods.client.create(SECRETS, secret, pods.namespace)
    ended = await pods.until("waits", lambda pod: main_status(pod)["lastState"]["terminated"])
    assert ended["message"] == "sesame"


async def test_what_cannot_start_says_why(pods: PodClient) -> None:
    volumes = [{"name": "data", "hostPath": {"path": "/no/such/place", "type": "Directory"}}]
    mount = [{"name": "data", "mountPath": "/data"}]
    await pods.create("program", {"command": ["no-such-program"]})
    await pods.create("image", {"image": "shoal/broker:latest"})
    await pods.create("path", shell("true", volumeMounts=mount), volumes=volumes)
    await pods.create("folder", shell("true", workingDir="/no/such/folder"))
    expected = {
        "program": ("CreateContainerError", 'exec: "no-such-program": executable file not found in $PATH'),
        "image": ("InvalidImageName", "has no command"),
        "path": ("CreateContainerError", "/no/such/place"),
        "folder": ("CreateContainerError", "/no/such/folder"),
    }
    for name, (reason, message) in expected.items():
        waiting = await pods.until(
            name, lambda pod: "message" in main_status(pod)["state"]["waiting"] and main_status(pod)["state"]["waiting"]
        )
        assert waiting["reason"] == reason
        assert message in waiting["message"]


async def test_graceful_end(pods: PodClient, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    code = f"trap 'echo term >> {trace}; exit 0' TERM; echo up >> {trace}; while :; do sleep 0.05; done"
    hook = {"preStop": {"exec": {"command": ["/bin/sh", "-c", f"echo hook >> {trace}"]}}}
    await pods.create("polite", shell(code, lifecycle=hook))
    await pods.until("polite", is_ready)
    await eventually(lambda: _exists(trace))
    await pods.client.delete(PODS, "polite", pods.namespace)
    await pods.until_gone("polite")
    assert trace.read_text().split() == ["up", "hook", "term"]


async def test_kill_after_the_grace_period_with_all_descendants(pods: PodClient, shared_node: NodeProcess) -> None:
    before = set(shared_node.processes())
    # A daemon with a session and a parent of its own, that moreover hides its environment.
    daemon = "(setsid env -i /bin/sleep 60 &)"
    await pods.create(
        "stubborn", shell(f"{daemon}; {IGNORES_SIGTERM}", readinessProbe=UP), terminationGracePeriodSeconds=1
    )
    await pods.until("stubborn", is_ready)
    started = time.monotonic()
    await pods.client.delete(PODS, "stubborn", pods.namespace)
    await pods.until_gone("stubborn")
    assert 0.9 < time.monotonic() - started < 6
    assert set(shared_node.processes()) <= before
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if _command(path) == b"/bin/sleep\x0060\x00"]


async def test_forced_deletion_ends_the_processes(pods: PodClient, shared_node: NodeProcess) -> None:
    before = set(shared_node.processes())
    await pods.create("forced", shell(IGNORES_SIGTERM, readinessProbe=UP))
    await pods.until("forced", is_ready)
    assert set(shared_node.processes()) - before
    await pods.client.delete(PODS, "forced", pods.namespace, grace_seconds=0)

    async def none_left() -> bool:
        return set(shared_node.processes()) <= before

    await eventually(none_left)


async def test_init_containers_and_sidecars_come_first(pods: PodClient, tmp_path: Path) -> None:
    order = tmp_path / "order"
    init = [
        {"name": "first", "image": "x", **shell(f"sleep 0.2; echo first >> {order}")},
        {"name": "side", "image": "x", "restartPolicy": "Always", **shell(f"echo side >> {order}; exec sleep 60")},
        {"name": "second", "image": "x", **shell(f"sleep 0.1; echo second >> {order}")},
    ]
    await pods.create("staged", shell(f"echo main >> {order}"), initContainers=init, restartPolicy="Never")
    pod = await pods.until("staged", lambda pod: phase(pod) == "Succeeded" and pod)
    assert order.read_text().split() == ["first", "side", "second", "main"]
    await pods.until("staged", lambda pod: "terminated" in pod["status"]["initContainerStatuses"][1]["state"])
    assert pod["status"]["initContainerStatuses"][0]["ready"]


async def test_a_failed_init_container_fails_the_pod(pods: PodClient) -> None:
    init = [{"name": "first", "image": "x", **shell("exit 4")}]
    await pods.create("unready", shell("true"), initContainers=init, restartPolicy="Never")
    pod = await pods.until("unready", lambda pod: phase(pod) == "Failed" and pod)
    assert main_status(pod)["state"]["waiting"]["reason"] == "PodInitializing"


async def test_deadline(pods: PodClient) -> None:
    await pods.create("late", shell("exec sleep 60"), activeDeadlineSeconds=1, restartPolicy="Never")
    pod = await pods.until("late", lambda pod: phase(pod) == "Failed" and pod)
    assert pod["status"]["reason"] == "DeadlineExceeded"


async def test_memory_limit(pods: PodClient) -> None:
    code = "import time; b = bytearray(80_000_000); b[::4096] = b'x' * len(b[::4096]); time.sleep(60)"
    limits = {"limits": {"memory": "40Mi"}}
    await pods.create("fat", python(code, resources=limits), restartPolicy="Never")
    pod = await pods.until("fat", lambda pod: phase(pod) == "Failed" and pod)
    ended = main_status(pod)["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


async def test_the_environment_is_what_kubelet_would_make_it(pods: PodClient) -> None:
    field = {"NAME": "metadata.name", "IP": "status.podIP", "ROLE": "metadata.labels['role']", "UID_": "metadata.uid"}
    env = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in field.items()]
    env += [
        {"name": "BOTH", "value": "$(NAME)/$(NONE)/$$(NAME)"},
        {"name": "CONFIG", "value": '{"path": "/data/x", "other": "/database", "url": "file:///data/y"}'},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
    ]
    code = "import os, json; open(os.environ['SHOAL_TERMINATION_LOG'], 'w').write(json.dumps(dict(os.environ)))"
    container = python(
        code, env=env, volumeMounts=[{"name": "v", "mountPath": "/data"}], resources={"limits": {"cpu": "250m"}}
    )
    labels = {"role": "broker"}
    volumes = [{"name": "v", "emptyDir": {}}]
    created = await pods.create("env", container, labels=labels, volumes=volumes, restartPolicy="Never")
    pod = await pods.until("env", lambda pod: phase(pod) == "Succeeded" and pod)
    found = orjson.loads(main_status(pod)["state"]["terminated"]["message"])
    real = orjson.loads(found["CONFIG"])
    assert real["path"].endswith("/volumes/v/x")
    assert real["other"] == "/database"
    assert real["url"] == f"file://{real['path'][:-1]}y"
    assert found["BOTH"] == "env/$(NONE)/$(NAME)"
    assert (found["NAME"], found["IP"], found["ROLE"]) == ("env", pod["status"]["podIP"], "broker")
    assert (found["UID_"], found["CPU"]) == (created["metadata"]["uid"], "250")
    assert "KUBECONFIG" not in found


async def _exists(path: Path) -> bool:
    return path.exists()


def _command(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


async def test_a_secret_that_changes_reaches_the_files_of_a_running_container(pods: PodClient) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "renewed"}, "stringData": {"token": "one"}}
    await pods.client.create(SECRETS, secret, pods.namespace)
    source = {"secret": {"name": "renewed", "items": [{"key": "token", "path": "own/token"}]}}
    body = shell(
        'echo "$FOLDER"; until grep -q two "$FOLDER/own/token"; do sleep 0.1; done; echo seen > $SHOAL_TERMINATION_LOG',
        env=[{"name": "FOLDER", "value": "/tokens"}],
        volumeMounts=[{"name": "tokens", "mountPath": "/tokens", "readOnly": True}],
    )
    volumes = [{"name": "tokens", "projected": {"sources": [source]}}]
    await pods.create("reader", body, volumes=volumes, restartPolicy="Never")
    await pods.until("reader", lambda pod: main_status(pod).get("state", {}).get("running"))
    await pods.client.patch(SECRETS, "renewed", {"stringData": {"token": "two"}}, pods.namespace)
    pod = await pods.until("reader", lambda pod: phase(pod) == "Succeeded" and pod)
    assert main_status(pod)["state"]["terminated"]["message"] == "seen"
