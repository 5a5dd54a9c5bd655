"""The whole control plane: up, through the death of each of its programs, and down without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from shoal.kube import ApiError, KubeClient, kubeconfig_source
from shoal.kube.resources import PODS, RL_JOBS
from shoal_embedded.supervisor import (
    ControlPlane,
    PlaneError,
    StateDirInUseError,
    is_running,
    leftovers,
    start_detached,
    stop_detached,
)
from shoal_embedded.supervisor.child import Child, Program
from shoal_embedded.supervisor.detached import holder
from shoal_embedded.supervisor.plane import HOPELESS_DEATHS
from tests.kubernetes import ProgramsMissingError, find_programs

Json = dict[str, Any]

EMBEDDED = importlib.util.find_spec("shoal_embedded.apiserver.__main__") is not None


def require(kind: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the kind if it can run here; skip otherwise."""
    if kind == "kube-apiserver":
        try:
            monkeypatch.setenv("KUBEBUILDER_ASSETS", str(find_programs()))
        except ProgramsMissingError as reason:
            pytest.skip(str(reason))
    elif not EMBEDDED:
        pytest.skip("the embedded API server is not there")
    return kind


@pytest.fixture(params=["embedded", "kube-apiserver"])
def each_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both control planes, where they are there."""
    return require(str(request.param), monkeypatch)


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> str:
    """The embedded one, which starts faster, if it is there."""
    return require("embedded" if EMBEDDED else "kube-apiserver", monkeypatch)


async def until(attempt: Callable[[], Awaitable[Any]], seconds: float = 30.0) -> Any:
    """Wait until it gives something true, through a server that is away."""
    end = time.monotonic() + seconds
    while True:
        value = None
        with contextlib.suppress(ApiError):
            value = await attempt()
        if value:
            return value
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.05)


def sleeper() -> Json:
    """A pod that runs for long."""
    container = {"name": "main", "image": "x", "command": ["/bin/sh", "-c", "exec sleep 600"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sleeper"}, "spec": {"containers": [container]}}


async def test_every_program_may_die(tmp_path: Path, each_kind: str) -> None:
    kind = each_kind
    async with ControlPlane(tmp_path, kind) as plane:
        with pytest.raises(StateDirInUseError):
            await ControlPlane(tmp_path, kind).__aenter__()
        async with KubeClient(kubeconfig_source(plane.kubeconfig)) as client:
            assert (await client.list(RL_JOBS)).items == []
            await client.create(PODS, sleeper(), "default")

            async def running() -> Json | None:
                pod = await client.get(PODS, "sleeper", "default")
                return pod if (pod.get("status") or {}).get("phase") == "Running" else None

            before = await until(running)
            for child in plane.children.values():
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)

            async def all_back() -> bool:
                return all(child.pid and child.deaths for child in plane.children.values())

            await until(all_back)
            after = await until(running)
            assert after["metadata"]["uid"] == before["metadata"]["uid"]
            assert after["status"]["containerStatuses"][0]["restartCount"] == 0
        assert leftovers.find(tmp_path)
    assert not leftovers.find(tmp_path)
    assert not plane.kubeconfig.exists()


async def test_up_and_down(tmp_path: Path, kind: str) -> None:
    kubeconfig = await start_detached(tmp_path, kind)
    assert is_running(tmp_path)
    async with KubeClient(kubeconfig_source(kubeconfig)) as client:
        await client.create(PODS, sleeper(), "default")
        with pytest.raises(StateDirInUseError):
            await start_detached(tmp_path, kind)
        # Killed without a chance to clean up, and then started again on the same state.
        supervisor = holder(tmp_path)
        assert supervisor is not None
        os.kill(supervisor, signal.SIGKILL)

    async def is_dead() -> bool:
        return not is_running(tmp_path)

    await until(is_dead)
    kubeconfig = await start_detached(tmp_path, kind)
    async with KubeClient(kubeconfig_source(kubeconfig)) as client:

        async def running() -> bool:
            pod = await client.get(PODS, "sleeper", "default")
            return bool(pod["status"]["phase"] == "Running")

        await until(running)
    assert await asyncio.to_thread(stop_detached, tmp_path)
    assert not leftovers.find(tmp_path)
    assert not is_running(tmp_path)
    assert not stop_detached(tmp_path)


async def test_cancelled_twice_it_ends_at_once(tmp_path: Path, kind: str) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with ControlPlane(tmp_path, kind, with_operator=False) as plane:
            async with KubeClient(kubeconfig_source(plane.kubeconfig)) as client:
                body = sleeper()
                body["spec"]["containers"][0]["command"][2] = "trap '' TERM; while :; do sleep 1; done"
                await client.create(PODS, body, "default")

                async def running() -> bool:
                    pod = await client.get(PODS, "sleeper", "default")
                    return bool((pod.get("status") or {}).get("phase") == "Running")

                await until(running)
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.wait({task, asyncio.create_task(entered.wait())}, return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    await asyncio.sleep(0.3)
    assert not task.done()
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 3
    assert not leftovers.find(tmp_path)


async def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    with pytest.raises(PlaneError, match="KUBEBUILDER_ASSETS"):
        await ControlPlane(tmp_path, "kube-apiserver").__aenter__()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    with pytest.raises(PlaneError, match="has no etcd and no kube-apiserver"):
        await ControlPlane(tmp_path, "kube-apiserver").__aenter__()
    with pytest.raises(PlaneError, match="expected one of embedded, kube-apiserver"):
        ControlPlane(tmp_path, "kind")


async def test_a_program_that_never_comes_up_is_a_failure_with_its_last_words(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path)
    plane.check()
    child = Child(Program("operator", ["/bin/sh", "-c", "echo no name for this user; exit 1"]), tmp_path, os.environ)
    plane._children.append(child)
    child.start()

    async def hopeless() -> bool:
        child.deaths_in_a_row += 1  # as if every pause were over
        return child.deaths_in_a_row >= HOPELESS_DEATHS and bool(child.last_words())

    await until(hopeless)
    with pytest.raises(PlaneError, match=r"operator does not start .*\n(?s:.*)no name for this user"):
        plane.check()
    await child.stop()
    child.deaths_in_a_row = HOPELESS_DEATHS - 1
    plane.check()
