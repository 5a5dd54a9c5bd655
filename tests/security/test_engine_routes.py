"""An engine's server: routes of Shoal's alone, none of vLLM's, and none that changes anything without the token."""

from __future__ import annotations

import pytest

from shoal.api.services.roles.engine import EngineConfig
from shoal_workers.engines.engine import Engine
from shoal_workers.engines.server import make_service
from shoal_workers.service import ProblemError, ServiceClient, serving
from tests.engines.fakes import FakeCore

OPEN = {"/healthz", "/readyz", "/metrics", "/status", "/openapi.json"}
CONTROL = {"/generate", "/abort", "/parse", "/weights", "/weights/prepare"}
OF_VLLM = (
    "/v1/completions",
    "/v1/load_lora_adapter",
    "/collective_rpc",
    "/reset_prefix_cache",
    "/sleep",
    "/wake_up",
    "/pause",
    "/update_weights",
    "/init_weight_transfer_engine",
    "/server_info",
)
"""Routes of vLLM's own server, those for development among them."""


async def test_an_engine_has_shoals_routes_and_every_one_that_changes_something_needs_the_token() -> None:
    service = make_service(EngineConfig(type="Reference", model="none"), Engine("one", FakeCore()), token="secret")
    paths = {getattr(route, "path", "") for route in service.app.routes}
    assert paths == OPEN | CONTROL
    async with serving(service) as url, ServiceClient(url, retries=0) as anybody:
        for path in CONTROL:
            with pytest.raises(ProblemError, match="unauthorized"):
                await anybody.call("POST", path)
    async with serving(service) as url, ServiceClient(url, token="secret", retries=0) as gateway:
        for path in OF_VLLM:
            with pytest.raises(ProblemError, match="not-found"):
                await gateway.call("POST", path)
