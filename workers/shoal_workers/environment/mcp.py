"""JSON-RPC requests of MCP, as far as OpenEnv's `/mcp` knows them."""

from __future__ import annotations

from typing import Any

import orjson

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603


def parse(body: bytes) -> dict[str, Any]:
    """The request; or, with the key `error`, the answer that says what is wrong about it."""
    try:
        request = orjson.loads(body)
    except ValueError as error:
        return failure(PARSE_ERROR, f"the body is not JSON: {error}")
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        return failure(INVALID_REQUEST, "a JSON-RPC request with `jsonrpc`, `method` and `id` is needed")
    if not isinstance(request.get("params", {}), dict):
        return failure(INVALID_PARAMS, "params must be an object", request.get("id"))
    return {"jsonrpc": "2.0", "id": None, **{name: request[name] for name in request if name != "error"}}


def failure(code: int, message: str, identifier: Any = None) -> dict[str, Any]:
    """An error answer."""
    return {"jsonrpc": "2.0", "id": identifier, "error": {"code": code, "message": message}}
