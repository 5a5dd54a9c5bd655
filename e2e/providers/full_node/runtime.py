"""containerd with runc and the standard CNI plugins, all its state in one folder."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from e2e.providers.daemons import Daemons
from e2e.providers.full_node.addresses import POD_CIDR

PAUSE_IMAGE = "localhost/pause:1"
CNI_PLUGINS = Path("/usr/lib/cni")
"""Where Debian's package has them."""

CONFIG = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE nobody may lower a score, and every pod would fail at its start.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{folder}/cni"
"""


@dataclass
class Runtime:
    """The container runtime."""

    folder: Path
    daemons: Daemons

    @property
    def socket(self) -> Path:
        """Where kubelet and `ctr` find it."""
        return self.folder / "containerd.sock"

    def start(self) -> None:
        """Start it; returns when it answers."""
        (self.folder / "cni").mkdir(parents=True)
        (self.folder / "cni" / "10-bridge.conflist").write_text(json.dumps(self._network()))
        config = self.folder / "config.toml"
        text = CONFIG.format(folder=self.folder, socket=self.socket, pause=PAUSE_IMAGE, plugins=CNI_PLUGINS)
        config.write_text(text)
        self.daemons.start("containerd", ["containerd", "--config", config, "--log-level", "warn"])
        self.daemons.until(lambda: self._ctr("version").returncode == 0, "containerd answers", 30)

    def load(self, archive: Path) -> None:
        """Import the images of an archive; raises CalledProcessError with ctr's words."""
        done = self._ctr("images", "import", "--all-platforms", str(archive))
        if done.returncode != 0:
            raise RuntimeError(f"ctr images import {archive.name}: {done.stderr[-1000:]}")

    def images(self) -> list[str]:
        """Names of the images that are there."""
        return self._ctr("images", "list", "--quiet").stdout.split()

    def _ctr(self, *args: str) -> subprocess.CompletedProcess[str]:
        command = ["ctr", "--address", str(self.socket), "--namespace", "k8s.io", *args]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def _network(self) -> dict[str, object]:
        ipam = {
            "type": "host-local",
            "ranges": [[{"subnet": POD_CIDR}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(self.folder / "ipam"),
        }
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": ipam,
        }
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "1.0.0", "name": "pods", "plugins": [{**bridge, "ipam": ipam}, portmap]}
