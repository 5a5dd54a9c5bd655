"""Sessions of OpenEnv environments: with a server over its WebSocket, or with an object in this process.

The wire protocol is OpenEnv's own (openenv.core.env_server): JSON messages `{"type": "reset" | "step" | "state" |
"mcp" | "close", "data": ...}`, answered by `{"type": "observation" | "state" | "mcp" | "error", "data": ...}`. One
connection is one session with an environment of its own; a server holds so many of them and no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import re
import socket
import threading
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import orjson

from shoal_workers.environment.adapter import InvalidActionError, LostError, NoRoomError, StartingError
from shoal_workers.environment.generators import seed_globals

MAX_MESSAGE_BYTES = 100 * 1024 * 1024
SCHEMA_SECONDS = 5.0
NO_MCP = {"code": -32603, "message": "Environment does not support MCP"}

_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


class Session(ABC):
    """One environment behind OpenEnv's protocol. Raises LostError when it is gone, and a new session may work."""

    @abstractmethod
    def reset(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The payload of a reset; arguments that the environment does not take are left out."""

    @abstractmethod
    def step(self, action: Mapping[str, Any]) -> Mapping[str, Any]:
        """The payload of a step; raises InvalidActionError for an action that does not fit the schema."""

    @abstractmethod
    def mcp(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to a JSON-RPC request of MCP (`tools/list`, `tools/call`)."""

    @abstractmethod
    def schemas(self) -> Mapping[str, Any]:
        """JSON schemas of `action`, `observation` and `state`; empty where nobody tells."""

    @abstractmethod
    def close(self) -> None:
        """End the session."""

    def alive(self) -> bool:
        """Whether the session can still be used, as far as is known without asking."""
        return True

    def abort(self) -> None:
        """Cut the session off, from another thread than the one that waits for it."""
        return


class Server:
    """An OpenEnv server as one member sees it: how many sessions the member's slots hold there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.held = 0
        self.refuses: set[str] = set()
        self._lock = threading.Lock()

    def count(self, change: int) -> None:
        """A session was opened (1) or has ended (-1)."""
        with self._lock:
            self.held += change

    def full(self, data: Mapping[str, Any]) -> Exception:
        """What a refused session means: no room for this slot ever, or only while others hold the server."""
        limit = data.get("max_sessions")
        said = f"the OpenEnv server at {self.url} holds {limit if limit is not None else 'no more'} sessions"
        if isinstance(limit, int) and self.held >= limit:
            return NoRoomError(f"{said}, and other slots of this member have them")
        return StartingError(f"{said}, and they are in use ({data.get('message', 'no detail')})")


class RemoteSession(Session):
    """A session of an OpenEnv server."""

    def __init__(self, server: Server, connect_timeout: float, message_timeout: float | None) -> None:
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        self._server = server
        self._timeout = message_timeout
        self._counted = False
        self._stack = contextlib.ExitStack()
        try:
            self._socket = self._stack.enter_context(
                connect(
                    websocket_url(server.url),
                    open_timeout=connect_timeout,
                    max_size=MAX_MESSAGE_BYTES,
                    compression=None,
                    proxy=None,
                )
            )
        except (OSError, TimeoutError, WebSocketException) as error:
            raise StartingError(f"cannot reach the OpenEnv server at {server.url}: {error}") from None

    def reset(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send a reset. A server of an old release passes on what its environment does not take: left out from then."""
        given = {name: value for name, value in arguments.items() if name not in self._server.refuses}
        while True:
            try:
                return self._ask("reset", given)
            except _AnswerError as error:
                refused = _UNEXPECTED.search(str(error))
                if refused is None or refused[1] not in given:
                    raise
                self._server.refuses.add(refused[1])
                del given[refused[1]]

    def step(self, action: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send a step."""
        return self._ask("step", action)

    def mcp(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send a request of MCP, in this session."""
        return self._ask("mcp", request)

    def schemas(self) -> Mapping[str, Any]:
        """The server's own schemas; empty where it has none."""
        base = self._server.url.replace("ws://", "http://", 1).replace("wss://", "https://", 1).rstrip("/")
        try:
            with urllib.request.urlopen(f"{base}/schema", timeout=SCHEMA_SECONDS) as answer:
                found: Any = json.loads(answer.read())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def alive(self) -> bool:
        """Whether the connection is open: the server's end closes with its process."""
        from websockets.protocol import State

        return self._socket.protocol.state is State.OPEN

    def abort(self) -> None:
        """Cut the connection under a thread that waits for an answer."""
        with contextlib.suppress(OSError):
            self._socket.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Tell the server, and disconnect."""
        with contextlib.suppress(Exception):
            self._socket.send('{"type":"close"}')
        self._stack.close()
        if self._counted:
            self._counted = False
            self._server.count(-1)

    def _ask(self, kind: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
        from websockets.exceptions import ConnectionClosed

        try:
            # What the server said before it closed the connection is still there to be read.
            with contextlib.suppress(ConnectionClosed):
                self._socket.send(orjson.dumps({"type": kind, "data": dict(data)}).decode())
            answer = orjson.loads(self._socket.recv(self._timeout))
        except (ConnectionClosed, OSError) as error:
            raise LostError(f"the OpenEnv server at {self._server.url} is gone: {error}") from None
        told: dict[str, Any] = answer.get("data") or {}
        if answer.get("type") == "error":
            raise self._refusal(kind, told)
        if not self._counted:
            self._counted = True
            self._server.count(1)
        return told

    def _refusal(self, kind: str, told: Mapping[str, Any]) -> Exception:
        detail = f"{told.get('message', 'no message')} ({told.get('code', 'no code')})"
        if told.get("code") == "CAPACITY_REACHED":
            return self._server.full(told)
        if told.get("code") == "VALIDATION_ERROR" and kind == "step":
            return InvalidActionError(f"{detail}: {told.get('errors', '')}")
        return _AnswerError(f"the OpenEnv server answered with an error: {detail}")


class _AnswerError(RuntimeError):
    """The server answered that its environment failed."""


class LocalSession(Session):
    """An `openenv.core` Environment object in this process; its asynchronous methods where it has those."""

    def __init__(self, factory: Any, action: Any, kwargs: Mapping[str, Any]) -> None:
        self._environment = factory(**kwargs)
        self._action = action
        self._runner = asyncio.Runner()

    def reset(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Reset the object."""
        seed = arguments.get("seed")
        if seed is not None:
            seed_globals(seed)
        return _payload(self._call("reset", accepted(self._method("reset"), arguments)))

    def step(self, action: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make the action and do it."""
        try:
            made = self._action.model_validate(action)
        except ValueError as error:
            raise InvalidActionError(str(error)) from None
        return _payload(self._call("step", {}, made))

    def mcp(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tools are listed and called by OpenEnv's own actions for them."""
        types = importlib.import_module("openenv.core.env_server.mcp_types")
        if not any(getattr(self._environment, name, None) is not None for name in ("mcp_client", "mcp_server")):
            return _rpc(request, error=NO_MCP)
        params = request.get("params") or {}
        if request.get("method") == "tools/list":
            listed = self._call("step", {}, types.ListToolsAction())
            return _rpc(request, result={"tools": [tool.model_dump() for tool in listed.tools]})
        if request.get("method") != "tools/call":
            return _rpc(request, error={"code": -32601, "message": f"Method not found: {request.get('method')}"})
        if not params.get("name"):
            return _rpc(request, error={"code": -32602, "message": "Missing 'name' in params"})
        call = types.CallToolAction(tool_name=params["name"], arguments=params.get("arguments") or {})
        answer = self._call("step", {}, call)
        if getattr(answer, "error", None) is not None:
            return _rpc(request, error={"code": -32603, "message": str(answer.error)})
        result = getattr(answer.result, "model_dump", lambda: answer.result)()
        return _rpc(request, result=result)

    def schemas(self) -> Mapping[str, Any]:
        """The schema of the action's class."""
        return {"action": self._action.model_json_schema()}

    def close(self) -> None:
        """Close the object, where it can be closed."""
        close = getattr(self._environment, "close", None)
        if callable(close):
            close()
        self._runner.close()

    def _method(self, name: str) -> Any:
        """`name_async`, where the class has one of its own, else `name`."""
        theirs = getattr(type(self._environment), f"{name}_async", None)
        own = theirs is not None and not getattr(theirs, "__module__", "").endswith("env_server.interfaces")
        return getattr(self._environment, f"{name}_async" if own else name)

    def _call(self, name: str, keywords: Mapping[str, Any], *positional: Any) -> Any:
        result = self._method(name)(*positional, **keywords)
        return self._runner.run(_awaited(result)) if inspect.isawaitable(result) else result


def accepted(call: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a function takes."""
    parameters = inspect.signature(call).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(arguments)
    return {name: value for name, value in arguments.items() if name in parameters}


def websocket_url(url: str) -> str:
    """The address of the WebSocket of an OpenEnv server with this base URL."""
    base = url.rstrip("/")
    for scheme, replacement in (("http://", "ws://"), ("https://", "wss://")):
        if base.startswith(scheme):
            base = replacement + base[len(scheme) :]
    return base + "/ws"


async def _awaited(result: Any) -> Any:
    return await result


def _payload(observation: Any) -> Mapping[str, Any]:
    fields = observation.model_dump(exclude={"reward", "done", "metadata"})
    metadata = dict(observation.metadata)
    return {"observation": fields, "reward": observation.reward, "done": observation.done, "metadata": metadata}


def _rpc(request: Mapping[str, Any], **answer: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request.get("id"), **answer}
