"""`python -m shoal_embedded.node`: run pods as processes of this machine.

SIGTERM and SIGINT end every container; after a SIGKILL they go on, and the next node takes them over.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import ssl
from pathlib import Path

from shoal_embedded.node.decide import BACKOFF_BASE, BACKOFF_CAP, BackoffPolicy
from shoal_embedded.node.node import Node, NodeSettings
from shoal_embedded.node.scheduling import DEFAULT_SCHEDULER


def read_arguments(arguments: list[str] | None = None) -> NodeSettings:
    """Read the command line; ends the process with a usage message when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m shoal_embedded.node", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--name", default="shoal-node", help="name of the Node object")
    parser.add_argument("--data", type=Path, required=True, help="folder of pods, logs and volumes")
    parser.add_argument("--host-data", type=Path, metavar="DIR", help="folder that pods find at /var/lib/shoal")
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="logs and figures; port 0: any")
    parser.add_argument("--backoff", type=float, default=BACKOFF_BASE, metavar="SECONDS", help="second restart's delay")
    parser.add_argument("--backoff-cap", type=float, default=BACKOFF_CAP, metavar="SECONDS", help="longest delay")
    parser.add_argument("--stop-seconds", type=float, default=5.0, help="longest grace of containers at the node's end")
    parser.add_argument(
        "--scheduler",
        default=DEFAULT_SCHEDULER,
        metavar="NAME",
        help="bind pods that ask for this scheduler; empty: none",
    )
    parser.add_argument("--certificate", type=Path, help="serve https with this certificate, as kube-apiserver wants")
    parser.add_argument("--key", type=Path, help="its private key")
    given = parser.parse_args(arguments)
    if not given.kubeconfig.exists():
        parser.error(f"--kubeconfig: {given.kubeconfig} does not exist")
    if bool(given.certificate) != bool(given.key):
        parser.error("--certificate and --key belong together")
    tls = None
    if given.certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(given.certificate, given.key)
    return NodeSettings(
        kubeconfig=given.kubeconfig,
        name=given.name,
        data=given.data.resolve(),
        host_data=given.host_data.resolve() if given.host_data else None,
        listen=given.listen,
        backoff=BackoffPolicy(given.backoff, given.backoff_cap),
        scheduler=given.scheduler,
        stop_seconds=given.stop_seconds,
        tls=tls,
    )


async def serve(settings: NodeSettings) -> None:
    """Run the node until a signal asks it to stop; a second signal ends containers at once."""
    node = Node(settings)
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for which in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(which, on_signal)
    work = asyncio.ensure_future(node.run())
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
        halt = asyncio.ensure_future(node.halt())
        hurried = asyncio.ensure_future(hurry.wait())
        await asyncio.wait({halt, hurried}, return_when=asyncio.FIRST_COMPLETED)
        if not halt.done():
            node.kill()
            await halt
    finally:
        for task in (work, stopped):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await work
        await node.close()


def main() -> None:
    """Entry point."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = read_arguments()
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(settings))
    else:
        uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
