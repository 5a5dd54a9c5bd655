"""The node's network: an address that pods can reach, in a namespace of its own."""

import subprocess
from pathlib import Path

from e2e.providers.full_node.addresses import BRIDGE, NODE_IP


def prepare() -> None:
    """Bring up loopback and the node's address, on a bridge without ports (the kernel may have no dummy device)."""
    for command in (
        "ip link set lo up",
        f"ip link add {BRIDGE} type bridge",
        f"ip addr add {NODE_IP}/24 dev {BRIDGE}",
        f"ip link set {BRIDGE} up",
        f"ip route add default dev {BRIDGE}",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
