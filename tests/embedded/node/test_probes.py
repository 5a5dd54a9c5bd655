"""Probes on a node: what they do to a pod."""

from __future__ import annotations

from pathlib import Path

from tests.embedded.node.running import Json, PodClient, events, eventually, is_ready, main_status, python, shell

SERVER = """
import http.server, os, pathlib
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if pathlib.Path(os.environ["FLAG"]).exists() else 503)
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer((os.environ["POD_IP"], 8000), Handler).serve_forever()
"""


def _server(flag: Path, **probes: object) -> Json:
    address = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    return python(SERVER, env=[{"name": "FLAG", "value": str(flag)}, address], **probes)


async def test_readiness_follows_the_probe(pods: PodClient, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    probe = {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1, "failureThreshold": 1}
    await pods.create("web", _server(flag, readinessProbe=probe))
    await eventually(lambda: events(pods.client, pods.namespace, "Unhealthy"))
    assert not is_ready(await pods.get("web"))
    flag.touch()
    await pods.until("web", is_ready)
    flag.unlink()
    await pods.until("web", lambda pod: not is_ready(pod))
    assert main_status(await pods.get("web"))["restartCount"] == 0


async def test_a_dead_container_is_restarted(pods: PodClient, tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    alive.touch()
    check = {"exec": {"command": ["/bin/sh", "-c", f"test -e {alive}"]}}
    probe = {**check, "periodSeconds": 1, "failureThreshold": 1}
    await pods.create("sick", shell("exec sleep 60", livenessProbe=probe))
    await pods.until("sick", is_ready)
    alive.unlink()
    await pods.until("sick", lambda pod: main_status(pod)["restartCount"] >= 1)
    assert main_status(await pods.get("sick"))["lastState"]["terminated"]["exitCode"] == 143


async def test_startup_holds_the_others_back(pods: PodClient, tmp_path: Path) -> None:
    up = tmp_path / "up"
    startup = {"tcpSocket": {"port": 8000}, "periodSeconds": 1, "failureThreshold": 60}
    code = f"import time, pathlib\nwhile not pathlib.Path({str(up)!r}).exists(): time.sleep(0.05)\n{SERVER}"
    container = {**_server(up, startupProbe=startup), "command": ["python", "-c", code]}
    await pods.create("slow", container)
    await pods.until("slow", lambda pod: "running" in main_status(pod)["state"])
    assert main_status(await pods.get("slow"))["started"] is False
    up.touch()
    await pods.until("slow", is_ready)
    assert main_status(await pods.get("slow"))["started"] is True
