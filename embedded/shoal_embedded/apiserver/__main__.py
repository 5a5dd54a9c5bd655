"""The process: `python -m shoal_embedded.apiserver --data DIR --listen HOST:PORT`."""

import argparse
import asyncio
import contextlib
import logging
import signal
from pathlib import Path

import uvloop
from aiohttp import web

from shoal_embedded.apiserver.app import ApiServer
from shoal_embedded.apiserver.expiry import keep_expiring
from shoal_embedded.apiserver.storage import HISTORY, Storage

STOP_SECONDS = 1.0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m shoal_embedded.apiserver", description="Serve the Kubernetes API.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the database")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--token-file", type=Path, help="file with the bearer token that requests need; default: none")
    parser.add_argument(
        "--history",
        type=int,
        default=HISTORY,
        help="changes that are kept; a watch or list further behind has to begin again (default: %(default)s)",
    )
    options = parser.parse_args()
    if options.history < 1:
        parser.error(f"--history {options.history}: expected a positive number")
    host, colon, port = options.listen.rpartition(":")
    if not colon or not port.isdigit():
        parser.error(f"--listen {options.listen}: expected HOST:PORT")
    options.host, options.port = host, int(port)
    return options


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    storage = Storage(options.data / "objects.sqlite", options.history)
    token = options.token_file.read_text().strip() if options.token_file else None
    server = ApiServer(storage, token)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, options.host, options.port, backlog=1024).start()
    logging.getLogger(__name__).info("serving at http://%s:%d", options.host, options.port)
    stop = asyncio.Event()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_, stop.set)
    expiring = asyncio.create_task(keep_expiring(storage))
    await stop.wait()
    expiring.cancel()
    await runner.cleanup()
    storage.close()


def main() -> None:
    """Run the server."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    options = parse()
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options))


if __name__ == "__main__":
    main()
