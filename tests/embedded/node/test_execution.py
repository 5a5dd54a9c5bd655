"""`kubectl exec` and `kubectl cp` on the embedded control plane, by kubectl itself."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest

from shoal.kube.resources import PODS
from tests.embedded.apiserver.conftest import kubectl_program
from tests.embedded.node.running import PodClient, shell

Json = dict[str, Any]
pytestmark = pytest.mark.parametrize("api_server", ["embedded"], indirect=True)


async def kubectl(
    kubeconfig: Path, namespace: str, *arguments: str, stdin: bytes | None = None
) -> tuple[int, bytes, bytes]:
    """Exit code, output and complaints."""
    process = await asyncio.create_subprocess_exec(
        kubectl_program(),
        f"--kubeconfig={kubeconfig}",
        f"--namespace={namespace}",
        *arguments,
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, complaints = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, output, complaints


@pytest.fixture
async def name(pods: PodClient) -> str:
    """A pod that runs, with a variable and a mounted folder."""
    main = shell(
        "exec sleep 600",
        env=[{"name": "COLOUR", "value": "blue"}],
        volumeMounts=[{"name": "data", "mountPath": "/data"}],
    )
    await pods.create("sleeper", main, volumes=[{"name": "data", "emptyDir": {}}])
    await pods.until("sleeper", lambda pod: pod["status"].get("phase") == "Running")
    return "sleeper"


async def test_a_command_has_the_containers_surroundings(api_server: Path, namespace: str, name: str) -> None:
    words = ("exec", name, "--", "sh", "-c", "echo $COLOUR; echo no >&2; exit 3")
    code, output, complaints = await kubectl(api_server, namespace, *words)
    assert (code, output) == (3, b"blue\n")
    assert complaints.splitlines()[0] == b"no"
    assert b"exit code 3" in complaints


async def test_it_reads_standard_input_to_its_end(api_server: Path, namespace: str, name: str) -> None:
    content = os.urandom(300_000)
    code, output, _ = await kubectl(api_server, namespace, "exec", "-i", name, "--", "cat", stdin=content)
    assert (code, output) == (0, content)


async def test_it_has_a_terminal_of_its_own(api_server: Path, namespace: str, name: str) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(  # noqa: ASYNC220 (asyncio would not give it the terminal)
        [kubectl_program(), f"--kubeconfig={api_server}", f"-n{namespace}", "exec", "-it", name, "--", "tty"],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, complaints = await asyncio.to_thread(process.communicate)
    for end in (master, slave):
        os.close(end)
    assert output.startswith(b"/dev/pts/"), (complaints, process.returncode)


async def test_files_are_copied_both_ways(api_server: Path, namespace: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(content := os.urandom(100_000))
    code, _, complaints = await kubectl(api_server, namespace, "cp", str(tmp_path / "there"), f"{name}:/data/file")
    assert code == 0, complaints
    code, _, complaints = await kubectl(api_server, namespace, "cp", f"{name}:/data/file", str(tmp_path / "back"))
    assert code == 0, complaints
    assert (tmp_path / "back").read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("exec", "sleeper", "--", "no-such-program"), "executable file not found in $PATH"),
        (("exec", "sleeper", "-c", "other", "--", "ls"), "container other is not valid for pod sleeper"),
        (("exec", "nobody", "--", "ls"), 'pods "nobody" not found'),
        (("port-forward", "sleeper", "8080"), "ask its podIP and port directly"),
        (("attach", "sleeper"), "kubectl logs -f"),
        (("create", "token", "default"), "there is one user, whose token is in the kubeconfig"),
    ],
    ids=["program", "container", "pod", "port-forward", "attach", "token"],
)
async def test_what_cannot_be_is_said_in_a_sentence(
    api_server: Path, namespace: str, name: str, arguments: tuple[str, ...], words: str
) -> None:
    code, _, complaints = await kubectl(api_server, namespace, *arguments)
    assert code != 0
    assert words in complaints.decode()


async def test_a_command_ends_with_its_client_and_with_its_container(
    api_server: Path, namespace: str, name: str, pods: PodClient, tmp_path: Path
) -> None:
    def processes(mark: str) -> list[str]:
        return [entry for entry in os.listdir("/proc") if entry.isdigit() and mark in _command(entry)]

    async def begin(mark: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            kubectl_program(), f"--kubeconfig={api_server}", f"-n{namespace}", "exec", name, "--", "sleep", mark
        )
        for _ in range(300):
            if any("kubectl" not in _command(each) for each in processes(mark)):
                return process
            await asyncio.sleep(0.05)
        raise AssertionError("the command does not run")

    async def gone(mark: str) -> bool:
        for _ in range(300):
            if not [each for each in processes(mark) if "kubectl" not in _command(each)]:
                return True
            await asyncio.sleep(0.05)
        return False

    first = await begin("601.25")
    first.kill()
    await first.wait()
    assert await gone("601.25")
    second = await begin("602.25")
    await pods.client.delete(PODS, name, namespace, grace_seconds=0)
    assert await gone("602.25")
    await asyncio.wait_for(second.wait(), 20)


def _command(pid: str) -> str:
    try:
        return Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


async def test_what_a_user_may_do(api_server: Path, namespace: str) -> None:
    code, output, complaints = await kubectl(api_server, namespace, "auth", "can-i", "--list")
    assert code == 0, complaints
    assert b"*.*" in output
    assert (await kubectl(api_server, namespace, "auth", "can-i", "delete", "pods"))[1].strip() == b"yes"
