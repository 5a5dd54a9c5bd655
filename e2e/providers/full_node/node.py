"""kubelet, kube-proxy and CoreDNS: what makes a machine a node whose pods find services by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from e2e.providers.daemons import Daemons
from e2e.providers.full_node.addresses import NODE, NODE_IP, POD_CIDR, SERVICE_DNS_DOMAIN
from e2e.providers.full_node.control_plane import ControlPlane
from e2e.providers.full_node.runtime import Runtime

COREFILE = """
.:53 {{
  bind {address}
  errors
  kubernetes {domain} {{
    kubeconfig {kubeconfig} e2e
    pods insecure
    ttl 5
  }}
  reload
}}
"""


@dataclass
class Node:
    """The one node."""

    programs: Path
    folder: Path
    daemons: Daemons
    control_plane: ControlPlane
    runtime: Runtime

    def start(self) -> None:
        """Start it; returns when the node is Ready."""
        self.folder.mkdir(parents=True)
        self._start_dns()
        self._start_kubelet()
        self._start_proxy()
        self.daemons.until(self._ready, f"node {NODE} is Ready", 60)

    def _ready(self) -> bool:
        path = "jsonpath={.status.conditions[?(@.type=='Ready')].status} {.spec.taints[*].key}"
        return self.control_plane.kubectl("get", "node", NODE, "-o", path).stdout.strip() == "True"

    def _start_kubelet(self) -> None:
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "resolvConf": "",
            "clusterDNS": [NODE_IP],
            "clusterDomain": SERVICE_DNS_DOMAIN,
            "containerRuntimeEndpoint": f"unix://{self.runtime.socket}",
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            # The network is the cluster's own: nobody else can reach kubelet.
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "maxPods": 200,
        }
        file = self.folder / "kubelet.yaml"
        file.write_text(yaml.safe_dump(config))
        self.daemons.start("kubelet", [
            self.programs / "kubelet", f"--config={file}", f"--kubeconfig={self.control_plane.kubeconfig}",
            f"--hostname-override={NODE}", f"--root-dir={self.folder / 'kubelet'}", f"--node-ip={NODE_IP}",
            f"--cert-dir={self.folder / 'pki'}",
        ])  # fmt: skip

    def _start_proxy(self) -> None:
        self.daemons.start("kube-proxy", [
            self.programs / "kube-proxy", f"--kubeconfig={self.control_plane.kubeconfig}", "--proxy-mode=nftables",
            f"--cluster-cidr={POD_CIDR}", f"--hostname-override={NODE}", "--conntrack-max-per-core=0",
        ])  # fmt: skip

    def _start_dns(self) -> None:
        file = self.folder / "Corefile"
        file.write_text(
            COREFILE.format(address=NODE_IP, domain=SERVICE_DNS_DOMAIN, kubeconfig=self.control_plane.kubeconfig)
        )
        self.daemons.start("coredns", [self.programs / "coredns", "-conf", file])
