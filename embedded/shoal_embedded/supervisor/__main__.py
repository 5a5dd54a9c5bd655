"""`python -m shoal_embedded.supervisor`: keep a control plane until SIGTERM or SIGINT.

A second signal ends it at once.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from shoal_embedded.supervisor.detached import READY_FILE
from shoal_embedded.supervisor.errors import PlaneError
from shoal_embedded.supervisor.plane import ControlPlane


async def keep(state_dir: Path, kind: str, data_dir: Path | None) -> None:
    """Run a control plane until cancelled; the ready file tells that it is up."""
    async with ControlPlane(state_dir, kind, data_dir=data_dir) as plane:
        ready = plane.state_dir / READY_FILE
        try:
            ready.write_text(f"{plane.kubeconfig}\n")
            await asyncio.Event().wait()
        finally:
            ready.unlink(missing_ok=True)


async def keep_until_signal(state_dir: Path, kind: str, data_dir: Path | None) -> None:
    """Run `keep` as a task that each signal cancels: once to stop, twice to stop at once."""
    task = asyncio.ensure_future(keep(state_dir, kind, data_dir))
    for which in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(which, task.cancel)
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m shoal_embedded.supervisor")
    parser.add_argument("--state-dir", type=Path, required=True, help="folder of the control plane")
    parser.add_argument("--kind", default="embedded", choices=["embedded", "kube-apiserver"])
    parser.add_argument("--data-dir", type=Path, help="what pods find at /var/lib/shoal; default: data in that folder")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(keep_until_signal(given.state_dir, given.kind, given.data_dir))
    except PlaneError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
