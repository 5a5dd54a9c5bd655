"""Reads a list page by page; the server makes the next page while the last one is decoded."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import replace

import orjson

from shoal.kube.errors import ApiError
from shoal.kube.resources import Json
from shoal.kube.transport import Call, Transport, decode

_CONTINUE = re.compile(rb'"continue":\s*("(?:[^"\\]|\\.)*")')
HEAD = 4096
"""Bytes in which a list tells its metadata, if it tells them before the items; kube-apiserver does."""


async def read_pages(transport: Transport, first: Call, following: Mapping[str, str]) -> AsyncGenerator[Json, None]:
    """Yield the decoded pages of a list.

    Args:
        transport: sends the calls.
        first: the call for the first page.
        following: query of the calls for the others, to which their `continue` is added.
    """
    call: Call = first
    ahead: asyncio.Task[bytes] | None = None
    try:
        while True:
            text = await (ahead or transport.read(call))
            ahead = None
            if early := peek_continue(text):
                call = replace(first, query={**following, "continue": early})
                ahead = asyncio.create_task(transport.read(call))
                # Decoding holds the event loop; the request has to be on its way before.
                await asyncio.sleep(0.001)
            body = decode(call, text)
            yield body
            token = str((body.get("metadata") or {}).get("continue") or "")
            if not token:
                return
            if ahead is None:
                call = replace(first, query={**following, "continue": token})
    finally:
        if ahead is not None:
            ahead.cancel()
            with suppress(ApiError, asyncio.CancelledError):
                await ahead


def peek_continue(text: bytes) -> str:
    """The token in the head of an undecoded list, "" where it cannot be told."""
    head, items, _ = text[:HEAD].partition(b'"items"')
    found = _CONTINUE.search(head) if items else None
    return str(orjson.loads(found.group(1))) if found else ""
