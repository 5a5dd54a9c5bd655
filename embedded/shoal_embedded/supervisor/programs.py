"""The command lines of a control plane's programs, and the files they need."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from shoal_embedded.supervisor.child import Program
from shoal_embedded.supervisor.errors import PlaneError

Kind = Literal["embedded", "kube-apiserver"]

NODE_NAME = "shoal-node"
NODE_STOP_SECONDS = 5.0
"""Longest grace of a container when the whole plane ends: its work is over, or resumes from what is on disk."""
_RESTART_BACKOFF = "1"
"""Seconds before a container's second restart. kubelet's 10 protect a cluster; here a person waits."""


@dataclass(frozen=True)
class Layout:
    """Where things lie in the state folder."""

    root: Path

    @property
    def kubeconfig(self) -> Path:
        """File with which kubectl and everything else logs in; there while the plane runs."""
        return self.root / "kubeconfig"

    @property
    def logs(self) -> Path:
        """Folder of the programs' logs."""
        return self.root / "logs"

    @property
    def apiserver(self) -> Path:
        """Folder of the embedded API server."""
        return self.root / "apiserver"

    @property
    def pki(self) -> Path:
        """Folder of kube-apiserver's keys."""
        return self.root / "pki"


def free_ports(count: int) -> list[int]:
    """Return TCP ports of 127.0.0.1 on which nobody listened a moment ago."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def find_assets(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the real programs, or raise `PlaneError` saying what is missing."""
    named = environ.get("KUBEBUILDER_ASSETS")
    if not named:
        raise PlaneError(
            "the control plane kube-apiserver needs KUBEBUILDER_ASSETS: a folder as setup-envtest makes it"
        )
    folder = Path(named)
    missing = [name for name in ("etcd", "kube-apiserver") if not os.access(folder / name, os.X_OK)]
    if missing:
        raise PlaneError(f"KUBEBUILDER_ASSETS: {folder} has no {' and no '.join(missing)}")
    return folder


def embedded_apiserver(layout: Layout) -> list[Program]:
    """Return the embedded API server and write its kubeconfig."""
    port = free_ports(1)[0]
    data = layout.apiserver
    command = [sys.executable, "-m", "shoal_embedded.apiserver", "--data", str(data), "--listen", f"127.0.0.1:{port}"]
    token, file = secrets.token_hex(16), data / "token"
    data.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(token)
    command += ["--token-file", str(file)]
    # kubectl sends no bearer token without TLS, so the token is in the URL, too.
    write_kubeconfig(layout.kubeconfig, f"http://127.0.0.1:{port}/{token}", token)
    return [Program("apiserver", command)]


def kube_apiserver(layout: Layout, assets: Path) -> list[Program]:
    """Return etcd, kube-apiserver and, where it is there, kube-controller-manager; write keys and the kubeconfig."""
    etcd_port, peer_port, api_port, manager_port = free_ports(4)
    layout.pki.mkdir(parents=True, exist_ok=True)
    key, tokens = layout.pki / "sa.key", layout.pki / "tokens.csv"
    if not key.exists():
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    token = secrets.token_hex(16)
    tokens.touch(mode=0o600)
    tokens.write_text(f'{token},admin,admin,"system:masters"\n')
    server = f"https://127.0.0.1:{api_port}"
    write_kubeconfig(layout.kubeconfig, server, token, certificate=layout.pki / "apiserver.crt")
    programs = [
        _etcd(layout, assets, etcd_port, peer_port),
        _kube_apiserver(layout, assets, etcd_port, api_port),
    ]
    if os.access(assets / "kube-controller-manager", os.X_OK):
        programs.append(_controller_manager(layout, assets, manager_port))
    return programs


def node(layout: Layout, kind: Kind, data_dir: Path) -> Program:
    """Return the node. A supervisor that is killed has it end its containers: the kernel sends it SIGTERM."""
    command = [sys.executable, "-m", "shoal_embedded.node", "--kubeconfig", str(layout.kubeconfig)]
    command += ["--name", NODE_NAME, "--data", str(layout.root / "node"), "--host-data", str(data_dir)]
    command += ["--backoff", _RESTART_BACKOFF, "--stop-seconds", f"{NODE_STOP_SECONDS:g}"]
    if kind == "kube-apiserver":
        command += ["--certificate", str(layout.pki / "apiserver.crt"), "--key", str(layout.pki / "apiserver.key")]
    return Program("node", command, stop_seconds=NODE_STOP_SECONDS + 5.0, orphan=signal.SIGTERM)


def operator(layout: Layout) -> Program:
    """Return the operator."""
    command = [sys.executable, "-m", "shoal.cli.main", "operator", "--kubeconfig", str(layout.kubeconfig)]
    return Program("operator", command)


def write_kubeconfig(path: Path, server: str, token: str, certificate: Path | None = None) -> None:
    """Write a kubeconfig for one user with a token, readable by its owner alone."""
    cluster = {"server": server}
    if certificate is not None:
        cluster["certificate-authority"] = str(certificate)
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "shoal", "cluster": cluster}],
        "users": [{"name": "shoal", "user": {"token": token}}],
        "contexts": [{"name": "shoal", "context": {"cluster": "shoal", "user": "shoal", "namespace": "default"}}],
        "current-context": "shoal",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def _etcd(layout: Layout, assets: Path, port: int, peer_port: int) -> Program:
    url, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    command = [str(assets / "etcd"), f"--data-dir={layout.root / 'etcd'}", "--log-level=error"]
    # The member's name for itself is kept in its data, so that it starts again on other ports.
    command += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}", f"--listen-peer-urls={peer}"]
    return Program("etcd", command)


def _kube_apiserver(layout: Layout, assets: Path, etcd_port: int, port: int) -> Program:
    key = layout.pki / "sa.key"
    command = [
        str(assets / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--cert-dir={layout.pki}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={port}",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/16",
        f"--token-auth-file={layout.pki / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--allow-privileged=true",
        "--endpoint-reconciler-type=none",
        "--kubelet-preferred-address-types=InternalIP",
        # The processes of this node get no service-account tokens, and no controller makes the accounts.
        "--disable-admission-plugins=ServiceAccount",
    ]
    # SIGTERM would make it wait for its watches; what it holds is in etcd.
    return Program("kube-apiserver", command, stop=signal.SIGKILL)


def _controller_manager(layout: Layout, assets: Path, port: int) -> Program:
    command = [
        str(assets / "kube-controller-manager"),
        f"--kubeconfig={layout.kubeconfig}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={layout.root / 'controller-manager'}",
        # Loopback addresses of pods are no valid endpoints to it; the node relays by itself.
        "--controllers=*,-endpoint,-endpointslice,-endpointslicemirroring",
    ]
    return Program("kube-controller-manager", command, stop=signal.SIGKILL)
