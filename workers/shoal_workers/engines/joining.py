"""The process of a worker pod of an engine over several pods: `python -m shoal_workers.engines.joining`.

It waits for the engine's Ray, joins it and stays until told to end. When the engine begins anew, Ray ends this node,
the process ends with it, and the container is started again and joins the new one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

from shoal_workers.engines.grouping import RAY_PORT, ray_command, start_arguments
from shoal_workers.service.config import write_termination_message

LEADER = "LWS_LEADER_ADDRESS"
"""Set by LeaderWorkerSet in every container of a group."""
WAIT_SECONDS = 1.0
"""The leader's name resolves once its pod has an address, and its port answers seconds after its container's start."""

LOST_SECONDS = 15
"""How long a node waits for a head that is gone. A head that begins anew is another cluster, so Ray's own 60 s would
only delay the engine."""


def main() -> int:
    """Join and stay; returns the exit code."""
    leader = os.environ.get(LEADER)
    if not leader:
        return _complain(f"{LEADER} is not set: this program belongs into a worker pod of a LeaderWorkerSet", 2)
    port = int(os.environ.get("RAY_PORT", RAY_PORT))
    signal.signal(signal.SIGTERM, _leave)
    wait_for(leader, port)
    own = os.environ.get("POD_IP") or str(socket.getaddrinfo(socket.gethostname(), None)[0][4][0])
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(LOST_SECONDS))
    command = ray_command(*start_arguments(own), f"--address={leader}:{port}", "--block")
    node = subprocess.Popen(command)
    try:
        code = node.wait()
    except SystemExit:
        node.terminate()
        raise
    return _complain(f"ray: this node has left the engine's cluster (exit code {code})", 1)


def wait_for(host: str, port: int) -> None:
    """Return once somebody listens there; a name that does not resolve yet is waited for as well."""
    while True:
        try:
            with socket.create_connection((host, port), timeout=WAIT_SECONDS):
                return
        except OSError:
            time.sleep(WAIT_SECONDS)


def _leave(*_: object) -> None:
    raise SystemExit(0)


def _complain(text: str, code: int) -> int:
    write_termination_message(text)
    sys.stderr.write(f"{text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
