"""Logs, figures and Services of a node."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from shoal.kube.resources import NODES, PODS, SERVICES
from tests.embedded.node.running import PodClient, eventually, is_ready, main_status, phase, python, shell

ECHO = """
import os, socketserver
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(os.environ["NAME"].encode() + b" " + line)
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64
Server((os.environ["IP"], 8000), Handler).serve_forever()
"""
FIELDS = [
    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
]
LISTENS = {"tcpSocket": {"port": 8000}, "periodSeconds": 1}


async def node_url(pods: PodClient) -> str:
    """Base URL of the node's server."""
    node = await pods.client.get(NODES, pods.node)
    return str(node["metadata"]["annotations"]["shoal.dev/node-url"])


async def test_logs(pods: PodClient) -> None:
    await pods.create("talks", shell("for i in 1 2 3; do echo line $i; done; sleep 0.5; echo end; exit 0"))
    await pods.until(
        "talks", lambda pod: main_status(pod)["restartCount"] >= 1 and "running" in main_status(pod)["state"]
    )
    url = f"{await node_url(pods)}/logs/{pods.namespace}/talks/main"
    async with aiohttp.ClientSession() as session:

        async def text(**query: str) -> str:
            async with session.get(url, params=query) as answer:
                return await answer.text()

        assert await text(follow="true") == "line 1\nline 2\nline 3\nend\n"
        assert await text(previous="true") == "line 1\nline 2\nline 3\nend\n"
        assert await text(previous="true", tailLines="2") == "line 3\nend\n"
        assert await text(previous="true", limitBytes="6") == "line 1"
        stamped = (await text(previous="true", timestamps="true")).splitlines()
        assert [line.split(" ", 1)[1] for line in stamped] == ["line 1", "line 2", "line 3", "end"]
        assert await text(previous="true", sinceSeconds="3600") == "line 1\nline 2\nline 3\nend\n"
        async with session.get(url.replace("/main", "/other")) as answer:
            assert answer.status == 404
        async with session.get(url, params={"tailLines": "many"}) as answer:
            assert answer.status == 400


async def test_figures(pods: PodClient) -> None:
    await pods.create("busy", python("while True: pass"))
    await pods.until("busy", is_ready)
    url = f"{await node_url(pods)}/stats/summary"
    async with aiohttp.ClientSession() as session:

        async def busy() -> Any:
            async with session.get(url) as answer:
                summary = await answer.json()
            mine = [pod for pod in summary["pods"] if pod["podRef"]["namespace"] == pods.namespace]
            return mine[0] if mine and mine[0]["cpu"]["usageNanoCores"] > 1e8 else None

        pod = await eventually(busy)
    assert pod["memory"]["rssBytes"] > 1e6
    assert pod["containers"][0]["name"] == "main"
    await pods.client.delete(PODS, "busy", pods.namespace, grace_seconds=0)


async def test_a_service_relays_to_ready_pods(pods: PodClient) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "echo"},
        "spec": {"selector": {"app": "echo"}, "ports": [{"port": 80, "targetPort": "tcp"}]},
    }
    await pods.client.create(SERVICES, service, pods.namespace)
    url = {"name": "URL", "value": f"http://echo.{pods.namespace}.svc:80/x"}
    code = "import os; open(os.environ['SHOAL_TERMINATION_LOG'], 'w').write(os.environ['URL'])"
    await pods.create("asks", python(code, env=[url]), restartPolicy="Never")
    pod = await pods.until("asks", lambda pod: phase(pod) == "Succeeded" and pod)
    found = main_status(pod)["state"]["terminated"]["message"]
    host, port = found.removeprefix("http://").removesuffix("/x").split(":")
    assert host.startswith("127.")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))

    server = python(ECHO, env=FIELDS, readinessProbe=LISTENS, ports=[{"name": "tcp", "containerPort": 8000}])
    for name in ("one", "two"):
        await pods.create(name, server, labels={"app": "echo"})
    for name in ("one", "two"):
        await pods.until(name, is_ready)

    async def ask() -> str:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"hi\n")
        answer = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        return answer.decode()

    async def both() -> bool:
        return {await ask() for _ in range(4)} == {"one hi\n", "two hi\n"}

    await eventually(both)
    reader, writer = await asyncio.open_connection(host, int(port))
    block = b"x" * 99_999 + b"\n"
    sender = asyncio.create_task(_send(writer, block * 50))
    received = await asyncio.wait_for(reader.read(), 20)
    await sender
    assert len(received) == 50 * (len(block) + 4)


async def _send(writer: asyncio.StreamWriter, content: bytes) -> None:
    writer.write(content)
    await writer.drain()
    writer.write_eof()


async def test_a_missing_service_is_named(pods: PodClient) -> None:
    url = {"name": "URL", "value": f"http://nobody.{pods.namespace}.svc:80"}
    await pods.create("asks", shell("true", env=[url]))
    waiting = await pods.until("asks", lambda pod: main_status(pod)["state"]["waiting"].get("message"))
    assert waiting == f'service "nobody" not found in namespace "{pods.namespace}"'
