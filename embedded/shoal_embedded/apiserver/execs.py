"""Commands in containers: the node runs them; the server passes frames on, both ways."""

import asyncio
from typing import Any

import aiohttp
from aiohttp import WSMsgType, web

from shoal_embedded.apiserver import logs
from shoal_embedded.apiserver.errors import StatusError, bad_request
from shoal_embedded.apiserver.storage import Storage

Json = dict[str, Any]
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")


async def relay(request: web.Request, storage: Storage, pod: Json) -> web.StreamResponse:
    """A command in a container, from its start to its end."""
    url = logs.place(request, storage, pod, "exec")
    client = web.WebSocketResponse(protocols=PROTOCOLS, compress=False)
    if not client.can_prepare(request):
        raise bad_request("exec is served over WebSockets alone, which kubectl speaks from version 1.30 on")
    query = [(key, value) for key, value in request.query.items() if key != "container"]
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url, params=query, protocols=PROTOCOLS, max_msg_size=0) as node,
        ):
            await client.prepare(request)
            ways = [asyncio.ensure_future(_pass(*way)) for way in ((client, node), (node, client))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await client.close()
            return client
    except aiohttp.WSServerHandshakeError as error:
        raise bad_request(f"the node cannot run a command there (status {error.status})") from error
    except aiohttp.ClientConnectionError as error:
        raise StatusError(503, "ServiceUnavailable", f"the node does not answer: {error}") from error


async def _pass(source: Any, target: Any) -> None:
    async for message in source:
        if message.type is WSMsgType.BINARY:
            await target.send_bytes(message.data)
