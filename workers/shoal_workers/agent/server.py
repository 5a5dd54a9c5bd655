"""The service of an agent's pod."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from shoal.api.labels import Role
from shoal.api.services.roles.agent import AgentConfig
from shoal.api.services.trajectories import AgentStatus
from shoal_workers.agent.chat import ChatHarness
from shoal_workers.agent.duties import Duties
from shoal_workers.agent.episode import Services
from shoal_workers.agent.harness import Harness, HarnessFactory
from shoal_workers.agent.openai import OpenAIHarness
from shoal_workers.agent.runner import Runner
from shoal_workers.broker.client import BrokerClient
from shoal_workers.service import Identity, Service, ServiceClient, credential, open_session

HARNESSES: dict[str, HarnessFactory] = {"Chat": ChatHarness, "OpenAI": OpenAIHarness}


def build(config: AgentConfig, identity: Identity) -> Service:
    """The service of this process; raises ConfigurationError for a harness that cannot work."""
    harness = HARNESSES[config.harness.type](config)
    return make_service(config, identity, harness)


def make_service(config: AgentConfig, identity: Identity, harness: Harness) -> Service:
    """The service around a harness."""
    runner: list[Runner] = []

    def status() -> AgentStatus:
        return runner[0].status() if runner else AgentStatus(name=identity.name)

    service = Service("agent", status, token=credential())

    @asynccontextmanager
    async def work() -> AsyncIterator[None]:
        async with open_session() as session:
            runner.append(Runner(config, _services(config, identity, harness, session), identity.name))
            async with runner[0].running():
                service.set_ready()
                yield

    async def hand_back() -> None:
        if runner:
            await runner[0].stop()

    service.lives_with(work)
    service.before_stop(hand_back)
    return service


def _services(config: AgentConfig, identity: Identity, harness: Harness, session: aiohttp.ClientSession) -> Services:
    brokers = {
        pool.name: BrokerClient(
            pool.broker_url,
            holder=identity.name,
            token=credential(pool.credential),
            session=session,
        )
        for pool in config.pools
    }
    data = ServiceClient(config.data_url, token=credential(Role.DATA), session=session)
    gateway = ServiceClient(config.gateway_url, token=credential(Role.GATEWAY), session=session)
    stops = harness.tokenizer.stop_token_ids if isinstance(harness, ChatHarness) else ()
    return Services(Duties(data, identity.name), gateway, brokers, session, harness, config, stops)
