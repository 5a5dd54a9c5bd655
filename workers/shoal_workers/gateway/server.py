"""The service of a gateway pod."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from shoal.api.labels import Role
from shoal.api.services.roles.gateway import GatewayConfig
from shoal_workers.gateway.admission import Admission
from shoal_workers.gateway.anthropic import Anthropic
from shoal_workers.gateway.calls import Calls
from shoal_workers.gateway.conversation import Conversations
from shoal_workers.gateway.engines import Engines
from shoal_workers.gateway.faces import ForeignErrors
from shoal_workers.gateway.openai import OpenAI
from shoal_workers.gateway.routes import add_fleet_routes, add_generate_routes, add_session_routes
from shoal_workers.gateway.routing import make_router
from shoal_workers.gateway.sessions import Sessions
from shoal_workers.gateway.status import Overview
from shoal_workers.service import ConfigurationError, Identity, ProblemError, Service, Token, credential, open_session
from shoal_workers.service.auth import Grant, reports
from shoal_workers.service.credentials import as_credential
from shoal_workers.tokens import ChatTokenizer, TemplateError

AGENT_ROUTES = ("/generate", "/sessions/", "/v1/")
"""What agents call; weights and engines are the trainer's and the operator's."""


@dataclass(frozen=True)
class Gateway:
    """The parts of a gateway."""

    service: Service
    engines: Engines
    admission: Admission
    calls: Calls
    sessions: Sessions


def build(config: GatewayConfig, identity: Identity) -> Service:
    """The service; raises ConfigurationError when the tokeniser is not there."""
    return make_gateway(config, credential(), credential(Role.ENGINE), credential(Role.AGENT)).service


def make_gateway(
    config: GatewayConfig, token: Token = None, engine_token: Token = None, agent_token: Token = None
) -> Gateway:
    """A gateway. Engines accept `engine_token` and report with it, and `agent_token` samples; without them, `token`
    does for all.
    """
    admission = Admission(make_router(config.policy), config.max_in_flight_per_engine, config.queue_limit)
    engines = Engines(config, admission, engine_token or token)
    calls = Calls(engines, admission, engine_token or token)
    sessions = Sessions()
    overview = Overview(engines, admission, calls)
    grants = (reports(as_credential(engine_token), "/engines/"), Grant(as_credential(agent_token), AGENT_ROUTES))
    service = Service("gateway", overview.status, token=token, grants=grants)
    add_generate_routes(service, calls, sessions)
    add_session_routes(service, sessions, engines.check_run)
    add_fleet_routes(service, engines, overview)
    service.app.add_middleware(ForeignErrors)
    if config.model:
        tokenizer = _tokenizer(config.model)
        conversations = Conversations(calls, engines, sessions, tokenizer)
        OpenAI(conversations, sessions, tokenizer, config.served_name).add_routes(service)
        Anthropic(conversations, config.served_name).add_routes(service)
    service.registry.register(overview)
    gateway = Gateway(service, engines, admission, calls, sessions)
    service.lives_with(lambda: _life(gateway))
    service.before_stop(lambda: _stop(gateway))
    return gateway


def _tokenizer(model: str) -> ChatTokenizer:
    try:
        return ChatTokenizer(model)
    except (OSError, TemplateError) as error:
        raise ConfigurationError("SHOAL_CONFIG.model", str(error)) from None


@asynccontextmanager
async def _life(gateway: Gateway) -> AsyncIterator[None]:
    """The connections to engines, and the care for them. Ready at once: calls queue until an engine can take them."""
    async with open_session() as session:
        gateway.calls.session = session
        async with gateway.engines.running(session):
            gateway.service.set_ready()
            yield


async def _stop(gateway: Gateway) -> None:
    """Callers that wait for an engine ask again when the next gateway is there; those at an engine get their answer."""
    gateway.admission.drop_all(lambda: ProblemError("stopping", "the gateway stops", status=503))
