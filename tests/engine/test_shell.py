"""The process under kopf, against a real API server: works, answers its probe, ends on SIGTERM, survives a 401."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest

from shoal.engine.shell import VaultSource
from shoal.kube import KubeClient, NotFoundError, kubeconfig_source
from shoal.kube.credentials import CredentialsError, StaticSource, credentials_from_kopf
from shoal.kube.resources import CONFIG_MAPS
from tests.engine.fault_proxy import FaultProxy
from tests.engine.waiting import until
from tests.kubernetes import Kubernetes, free_ports

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0


@asynccontextmanager
async def operator(kubeconfig: Path, namespace: str, liveness: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.engine.shell_program", str(kubeconfig), namespace, liveness,
        cwd=ROOT, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def copied(client: KubeClient, namespace: str, name: str) -> dict[str, str]:
    async with asyncio.timeout(START_SECONDS):
        while True:
            with suppress(NotFoundError):
                body = await client.get(CONFIG_MAPS, f"{name}-copy", namespace)
                return dict(body["data"])
            await asyncio.sleep(0.05)


def rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def test_an_operator_lives_and_ends_under_kopf(kubernetes: Kubernetes) -> None:
    namespace, liveness = kubernetes.namespace, f"http://127.0.0.1:{free_ports(1)[0]}/healthz"
    async with KubeClient(kubeconfig_source(kubernetes.kubeconfig)) as client:
        body = {"metadata": {"name": "one", "labels": {"copy": "yes"}}, "data": {"a": "1"}}
        await client.create(CONFIG_MAPS, body, namespace)
        async with operator(kubernetes.kubeconfig, namespace, liveness) as process, aiohttp.ClientSession() as session:
            assert await copied(client, namespace, "one") == {"a": "1"}
            answer = await session.get(liveness)
            assert answer.status == 200
            assert await answer.json() == {"manager": {"synced": True, "leading": True}}
            # A whole operator at rest stays below 100 MiB; this is the part of it that is ours and kopf's.
            assert rss_mib(process.pid) < 90
            process.send_signal(signal.SIGTERM)
            output, errors = await asyncio.wait_for(process.communicate(), 20)
            assert process.returncode == 0, errors.decode()
            assert "ended well" in output.decode()
            assert b"Traceback" not in errors


async def test_a_server_that_refuses_for_a_while_is_logged_in_to_again(kubernetes: Kubernetes, tmp_path: Path) -> None:
    namespace = kubernetes.namespace
    async with (
        KubeClient(kubeconfig_source(kubernetes.kubeconfig)) as client,
        FaultProxy(kubernetes, rate=0.0, seed=1).serve() as proxy,
    ):
        kubeconfig = kubernetes.server.write_kubeconfig(tmp_path / "kubeconfig", url=proxy.url)
        async with operator(kubeconfig, namespace, "") as process:
            for name, refuse in (("one", False), ("two", True), ("three", False)):
                proxy.refuse = refuse
                body = {"metadata": {"name": name, "labels": {"copy": "yes"}}, "data": {"a": name}}
                await client.create(CONFIG_MAPS, body, namespace)
                if refuse:
                    await until(lambda: proxy.struck["401"] >= 3)
                else:
                    assert await copied(client, namespace, name) == {"a": name}
            assert await copied(client, namespace, "two") == {"a": "two"}
            assert process.returncode is None


async def test_credentials_that_do_not_exist_are_told_at_once(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.engine.shell_program", str(tmp_path / "none"), "default", "",
        cwd=ROOT, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert "CredentialsError" in errors.decode()
    assert str(tmp_path / "none") in errors.decode()


class FakeVault:
    """kopf's vault as far as the source uses it: gives the current login, and another after a refusal."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = list(tokens)
        self.refused: list[str] = []

    def __aiter__(self) -> AsyncIterator[tuple[str, SimpleNamespace]]:
        return self._items()

    async def _items(self) -> AsyncIterator[tuple[str, SimpleNamespace]]:
        yield "login", connection_info(self._tokens[0])

    async def invalidate(self, _: str, info: SimpleNamespace) -> None:
        self.refused.append(info.token)
        self._tokens.pop(0)


def connection_info(token: str) -> SimpleNamespace:
    from shoal.engine.shell import import_kopf

    return import_kopf().ConnectionInfo(server="http://x", token=token)  # type: ignore[no-any-return]


async def test_a_refusal_goes_back_to_the_vault_once() -> None:
    vault = FakeVault("old", "new", "newest")
    source = VaultSource(vault)
    first = await source.current()
    assert first.token == "old"
    renewed = await asyncio.gather(source.refresh(first), source.refresh(first))
    assert [credentials.token for credentials in renewed] == ["new", "new"]
    assert vault.refused == ["old"]


async def test_credentials_survive_the_way_through_kopf(kubernetes: Kubernetes) -> None:
    from shoal.engine.shell import ShellSettings, _Shell, import_kopf

    source = kubeconfig_source(kubernetes.kubeconfig)
    given = await source.current()
    shell = _Shell(import_kopf(), source, None, ShellSettings())  # type: ignore[arg-type]
    through = credentials_from_kopf(await shell._login())
    assert (through.server, through.token, through.ca) == (given.server, given.token, given.ca)
    async with KubeClient(StaticSource(through)) as client:
        assert (await client.get_path("/version"))["major"] == "1"


async def test_a_login_waits_for_credentials_to_come_back(tmp_path: Path, kubernetes: Kubernetes) -> None:
    from shoal.engine.shell import ShellSettings, _Shell, import_kopf

    path = tmp_path / "kubeconfig"
    shell = _Shell(import_kopf(), kubeconfig_source(path), None, ShellSettings())  # type: ignore[arg-type]
    login = asyncio.create_task(shell._login())
    await asyncio.sleep(0.1)
    assert not login.done()
    path.write_text(kubernetes.kubeconfig.read_text())
    info = await asyncio.wait_for(login, 10)
    assert info.token == kubernetes.token


async def test_nothing_starts_without_credentials(tmp_path: Path) -> None:
    from shoal.engine.shell import run_shell

    with pytest.raises(CredentialsError):
        await run_shell(kubeconfig_source(tmp_path / "none"), None)  # type: ignore[arg-type]


def test_an_operator_in_a_pod_imports_no_official_client() -> None:
    code = "import sys, shoal.cli.main, shoal.cli.operator, shoal.engine.shell; print('kubernetes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
