"""Reading request bodies and writing answers."""

from typing import Any

import orjson
import yaml
from aiohttp import web

from shoal_embedded.apiserver import protobuf
from shoal_embedded.apiserver.errors import StatusError, bad_request, not_acceptable, unsupported_media_type

Json = dict[str, Any]

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = ("application/apply-patch+yaml", "application/apply-patch+json")


async def read(request: web.Request) -> Any:
    """The body as JSON or YAML; raises 400 for neither, 415 for another type."""
    raw = await request.read()
    if not raw:
        return None
    kind = request.content_type
    if kind == "application/yaml" or kind in APPLY:
        try:
            return orjson.loads(raw) if raw.lstrip()[:1] == b"{" else yaml.load(raw, Loader=_LOADER)
        except (orjson.JSONDecodeError, yaml.YAMLError) as error:
            raise bad_request(f"error decoding YAML: {error}") from error
    if kind == protobuf.TYPE:
        return protobuf.decode(raw)
    if "json" not in kind and kind != "application/octet-stream":
        raise unsupported_media_type("application/json", "application/yaml", protobuf.TYPE)
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"couldn't parse the body as JSON: {error}") from error


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def answer(body: Any, code: int = 200) -> web.Response:
    """JSON."""
    return web.Response(body=orjson.dumps(body), status=code, content_type="application/json")


def failure(error: StatusError) -> web.Response:
    """A Status object."""
    return answer(error.status(), error.code)


def check_accept(request: web.Request) -> None:
    """Raise 406 where the client takes no form that the server could have."""
    accept = request.headers.get("Accept", "*/*")
    if not any(form in accept for form in ("json", "yaml", "*/*", "application/*", "protobuf")):
        raise not_acceptable()


def wants_table(request: web.Request) -> bool:
    """Whether the client asked for a Table, as `kubectl get` does."""
    return "as=Table" in request.headers.get("Accept", "")


def wants_metadata(request: web.Request) -> bool:
    """Whether the client asked for the objects' metadata alone."""
    return "as=PartialObjectMetadata" in request.headers.get("Accept", "")


def flag(request: web.Request, name: str) -> bool:
    """A boolean query parameter."""
    return request.query.get(name, "").lower() in ("true", "1")
