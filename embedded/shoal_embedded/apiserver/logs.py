"""Container logs: the node has them; the server passes them on."""

from typing import Any

import aiohttp
from aiohttp import web

from shoal_embedded.apiserver.errors import StatusError, bad_request
from shoal_embedded.apiserver.storage import Storage

Json = dict[str, Any]

NODE_URL = "shoal.dev/node-url"
"""Annotation of a Node: where its logs are served."""


def place(request: web.Request, storage: Storage, pod: Json, what: str) -> str:
    """Where the node serves this (`logs`, `exec`) of the container that is asked for."""
    metadata, spec = pod["metadata"], pod["spec"]
    names = [each["name"] for each in (*spec.get("initContainers", ()), *spec["containers"])]
    container = request.query.get("container") or (spec["containers"][0]["name"])
    if container not in names:
        raise bad_request(f"container {container} is not valid for pod {metadata['name']}")
    node = storage.get("nodes", "", spec.get("nodeName", ""))
    if node is None:
        raise bad_request(f'container "{container}" in pod "{metadata["name"]}" is waiting to start: not scheduled')
    return f"{node['metadata']['annotations'][NODE_URL]}/{what}/{metadata['namespace']}/{metadata['name']}/{container}"


async def stream(request: web.Request, storage: Storage, pod: Json) -> web.StreamResponse:
    """A container's log, as long as the node sends it."""
    url = place(request, storage, pod, "logs")
    query = {key: value for key, value in request.query.items() if key != "container"}
    timeout = aiohttp.ClientTimeout(total=None, connect=5)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, params=query) as upstream:
            if upstream.status != 200:
                raise bad_request((await upstream.text()).strip())
            response = web.StreamResponse(headers={"Content-Type": "text/plain"})
            await response.prepare(request)
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response
    except aiohttp.ClientConnectionError as error:
        raise StatusError(503, "ServiceUnavailable", f"the node does not answer: {error}") from error
