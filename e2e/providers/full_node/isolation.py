"""A whole cluster inside one `unshare`: its own network, mounts and processes, so that nothing of it is left behind.

No firewall rule, bridge or port of the machine changes, nothing stays mounted, and when the first process ends the
kernel ends every daemon, shim and container with it. The tests run inside as well.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from e2e.providers.full_node.runtime import CNI_PLUGINS

INSIDE = "SHOAL_E2E_ISOLATED"
"""Set inside, so that nobody nests."""
TOOLS = (
    *("unshare", "ip", "containerd", "containerd-shim-runc-v2", "runc", "ctr", "nft", "iptables", "conntrack"),
    *("openssl", "busybox", "buildah", "mmdebstrap"),
)
DEBIAN_PACKAGES = (
    "buildah busybox-static conntrack containerd containernetworking-plugins "
    "iproute2 iptables mmdebstrap nftables openssl runc"
)


def missing() -> str | None:
    """Why a cluster cannot run on this machine; None when it can."""
    if os.geteuid() != 0:
        return "needs root: it makes namespaces, mounts and containers"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if not (CNI_PLUGINS / "bridge").exists():
        absent.append(f"{CNI_PLUGINS}/bridge")
    if absent:
        return f"not installed: {', '.join(absent)} (apt-get install {DEBIAN_PACKAGES})"
    return None


def install() -> None:
    """Install what is missing from Debian's packages, where that is possible; `missing` tells what still is."""
    if missing() is None or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-qq", "--no-install-recommends", *DEBIAN_PACKAGES.split()]):
        subprocess.run(["apt-get", "-y", *command], env=environment, stdout=subprocess.DEVNULL, check=False)


def clear(state: Path) -> None:
    """End what the cluster left running, unmount what it mounted below `state`, and remove that folder."""
    if inside() and os.getpid() == 1:
        # Containers and their shims outlive containerd. Here, and only here, everybody else is one of them.
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{state}/")]):
        subprocess.run(["umount", "--lazy", mount], capture_output=True, check=False)
    shutil.rmtree(state, ignore_errors=True)


def inside() -> bool:
    """Whether this process is in the cluster's namespaces already."""
    return os.environ.get(INSIDE) == "1"


def command(argv: Sequence[str]) -> list[str]:
    """`argv` inside namespaces of its own."""
    isolated = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [*isolated, "env", f"{INSIDE}=1", *argv]
