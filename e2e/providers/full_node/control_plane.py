"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler, as a cluster has them: with RBAC and accounts."""

from __future__ import annotations

import secrets
import ssl
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from e2e.providers.daemons import Daemons
from e2e.providers.full_node.addresses import (
    API_PORT,
    ETCD_PEER_PORT,
    ETCD_PORT,
    NODE_IP,
    POD_CIDR,
    SERVICE_CIDR,
)

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "userGroups": ["system:serviceaccounts:shoal-system"]},
        {"level": "None"},
    ],
}
"""What the operator's accounts do, and nothing else: the test of permissions reads it."""


@dataclass
class ControlPlane:
    """The servers, started in order. `folder` has the keys, kubeconfig and audit log."""

    programs: Path
    folder: Path
    daemons: Daemons
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def url(self) -> str:
        """The API server, as the node and its pods reach it."""
        return f"https://{NODE_IP}:{API_PORT}"

    @property
    def certificate(self) -> Path:
        """What to verify the API server with."""
        return self.folder / "apiserver.crt"

    @property
    def kubeconfig(self) -> Path:
        """The cluster admin's kubeconfig."""
        return self.folder / "kubeconfig"

    @property
    def audit_log(self) -> Path:
        """One JSON line for every request of the operator's accounts."""
        return self.folder / "audit.log"

    def start(self) -> None:
        """Start everything; returns when the API server is ready and pods may be created."""
        self.folder.mkdir(parents=True, exist_ok=True)
        key = self.folder / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        (self.folder / "tokens.csv").write_text(f'{self.token},admin,admin,"system:masters"\n')
        (self.folder / "audit.yaml").write_text(yaml.safe_dump(AUDIT_POLICY))
        self._start_etcd()
        self._start_apiserver(key)
        self.daemons.until(self._ready, "kube-apiserver is ready", 90)
        self._write_kubeconfig()
        self.daemons.start("kube-controller-manager", [
            self.programs / "kube-controller-manager", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false",
            f"--service-account-private-key-file={key}", f"--root-ca-file={self.certificate}",
            "--use-service-account-credentials", "--allocate-node-cidrs", f"--cluster-cidr={POD_CIDR}",
            "--node-cidr-mask-size=24", f"--cert-dir={self.folder}",
        ])  # fmt: skip
        self.daemons.start("kube-scheduler", [
            self.programs / "kube-scheduler", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false",
            f"--cert-dir={self.folder}",
        ])  # fmt: skip

    def kubectl(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the admin."""
        command = [str(self.programs / "kubectl"), f"--kubeconfig={self.kubeconfig}", *args]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def _start_etcd(self) -> None:
        self.daemons.start("etcd", [
            self.programs / "etcd", f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync", "--log-level=warn",
            f"--listen-client-urls=http://127.0.0.1:{ETCD_PORT}", f"--advertise-client-urls=http://127.0.0.1:{ETCD_PORT}",
            f"--listen-peer-urls=http://127.0.0.1:{ETCD_PEER_PORT}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{ETCD_PEER_PORT}",
            f"--initial-cluster=default=http://127.0.0.1:{ETCD_PEER_PORT}",
        ])  # fmt: skip

    def _start_apiserver(self, key: Path) -> None:
        self.daemons.start("kube-apiserver", [
            self.programs / "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{ETCD_PORT}",
            f"--cert-dir={self.folder}", "--bind-address=0.0.0.0", f"--advertise-address={NODE_IP}",
            f"--secure-port={API_PORT}", f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}", f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=Node,RBAC",
            f"--token-auth-file={self.folder / 'tokens.csv'}", "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP", f"--audit-policy-file={self.folder / 'audit.yaml'}",
            f"--audit-log-path={self.audit_log}",
        ])  # fmt: skip

    def _ready(self) -> bool:
        if not self.certificate.exists():
            return False
        request = urllib.request.Request(f"{self.url}/readyz", headers={"Authorization": f"Bearer {self.token}"})
        try:
            context = ssl.create_default_context(cafile=str(self.certificate))
            with urllib.request.urlopen(request, timeout=5, context=context) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def _write_kubeconfig(self) -> None:
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "e2e", "cluster": {"server": self.url, "certificate-authority": str(self.certificate)}}
            ],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "admin"}}],
            "current-context": "e2e",
        }
        self.kubeconfig.write_text(yaml.safe_dump(content))
