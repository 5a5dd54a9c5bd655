"""Everything around an agent, over real sockets in one event loop: pool, gateway, data manager."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from fastapi import Request
from starlette.responses import Response

from shoal.api.services.leases import BrokerStatus
from shoal.api.services.models import GatewayStatus, GenerateRequest, GenerateResult, SamplingParameters
from shoal.api.services.roles.agent import AgentConfig
from shoal.api.services.roles.broker import BrokerConfig
from shoal.api.services.roles.environment import EnvironmentConfig, EnvironmentSource
from shoal.api.services.trajectories import AgentStatus, Batch, BatchRequest, TrainTrajectory
from shoal_workers.agent.server import HARNESSES, make_service
from shoal_workers.broker.server import make_service as make_broker
from shoal_workers.data.manager import DataManager
from shoal_workers.data.server import make_service as make_data
from shoal_workers.environment.adapter import (
    Backend,
    EnvironmentAdapter,
    GraderError,
    InvalidActionError,
    Observation,
    Step,
)
from shoal_workers.environment.member import Member
from shoal_workers.environment.server import make_service as make_member
from shoal_workers.gateway.routes import add_session_routes
from shoal_workers.gateway.sessions import Sessions, within
from shoal_workers.service import Identity, ProblemError, Service, ServiceClient, read, reply, serving
from shoal_workers.service.server import listen, url_of
from tests.data.play import config as data_config
from tests.models import IM_END, VOCABULARY, write_tokenizer

GOAL = 3
RIGHT = [VOCABULARY["right"], IM_END]
GREEDY = SamplingParameters(max_tokens=100, temperature=0.0)
"""How a program in a session asks for its tokens."""


class FakeEnvironment(EnvironmentAdapter):
    """A way of three cells to the right; `task` says what goes wrong at which step."""

    def reset(self, seed: int | None, task: Mapping[str, Any]) -> Observation:
        self.cell, self.steps, self.task = 0, 0, task
        return Observation("state 0")

    def step(self, action: Mapping[str, Any]) -> Step:
        self.steps += 1
        if self.steps == self.task.get("break_at"):
            raise RuntimeError("broken glass")
        if self.steps == self.task.get("grade_at"):
            raise GraderError("no verdict")
        if action.get("text") not in ("right", "left"):
            raise InvalidActionError(f"{action.get('text')} is no way to go")
        self.cell += 1 if action["text"] == "right" else 0
        done, cut = self.cell == GOAL, self.steps == self.task.get("cut_at")
        return Step(Observation(f"state {self.cell}"), reward=float(done), terminated=done, truncated=cut)

    def close(self) -> None:
        return


@dataclass
class FakeGateway:
    """Answers what `answer` says for a prompt; raises what `failures` holds first; waits while `gate` is shut.

    The sessions are the gateway's own; only the sampling in them is not.
    """

    answer: Callable[[list[int]], list[int]] = lambda prompt: RIGHT
    version: int = 0
    failures: list[ProblemError] = field(default_factory=list)
    requests: list[GenerateRequest] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    sessions: Sessions = field(default_factory=Sessions)
    finish: str = "stop"
    held_by: str = ""
    refusals: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def service(self) -> Service:
        """The routes that an agent calls."""
        service = Service("gateway", GatewayStatus)

        @service.app.post("/generate")
        async def generate(request: Request) -> Response:
            return reply(await self._sampled(await read(request, GenerateRequest)))

        @service.app.post("/sessions/{session}/v1/chat/completions")
        async def chat(session: str, request: Request) -> Response:
            await request.body()
            asked = GenerateRequest(request_id="r", prompt_token_ids=[1, 2], sampling=GREEDY)
            call = within(session, self.sessions.settings(session), asked)
            self.sessions.record(session, call.prompt_token_ids, await self._sampled(call))
            message = {"role": "assistant", "content": "right"}
            return Response(orjson.dumps({"choices": [{"index": 0, "message": message}]}))

        add_session_routes(service, self.sessions, self.check_run)
        return service

    def check_run(self, run: str) -> None:
        """As the gateway does, for the run that `held_by` names."""
        if self.held_by not in ("", run):
            self.refusals += 1
            raise ProblemError("fleet-in-use", f"the fleet serves the weights of run {self.held_by!r}", status=503)

    async def _sampled(self, asked: GenerateRequest) -> GenerateResult:
        self.requests.append(asked)
        self.check_run(asked.run)
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        return self._result(asked)

    def _result(self, asked: GenerateRequest) -> GenerateResult:
        tokens = self.answer(asked.prompt_token_ids)[: asked.sampling.max_tokens]
        span = {"version": self.version, "start": 0, "end": len(tokens)}
        return GenerateResult.model_validate(
            {
                "token_ids": tokens,
                "logprobs": [-0.5 - index for index in range(len(tokens))],
                "versions": [span],
                "finish_reason": self.finish,
            }
        )


def words(*names: str) -> list[int]:
    """Token ids of words."""
    return [VOCABULARY[name] for name in names]


def free_port() -> int:
    """A TCP port that nobody listens on."""
    listener = listen("127.0.0.1", 0)
    port = int(url_of(listener).rsplit(":", 1)[1])
    listener.close()
    return port


class Stage:
    """The services; agents come and go."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.gateway = FakeGateway()
        self.data_port, self.broker_port = free_port(), free_port()
        self.manager: DataManager | None = None
        self.data: AsyncExitStack | None = None

    async def start(self, slots: int, **data: Any) -> None:
        """Start all but the agents."""
        write_tokenizer(self.folder / "model")
        self.data_settings = {"environments": ["lake"], "tasks": {"inline": [{}]}} | data
        await self.open_data()
        self.gateway_url = await self.stack.enter_async_context(serving(self.gateway.service()))
        broker = BrokerConfig(port=self.broker_port, ttl=3.0, heartbeat=0.5, report_seconds=0.2)
        await self.stack.enter_async_context(serving(make_broker(broker, None), port=self.broker_port))
        await self._member(slots)

    async def open_data(self) -> DataManager:
        """Open the data manager, on the store that is there."""
        self.manager = DataManager(data_config(self.folder / "job", **self.data_settings))
        self.data = AsyncExitStack()
        await self.data.enter_async_context(serving(make_data(self.manager, None), port=self.data_port))
        self.stack.push_async_callback(self.data.aclose)
        return self.manager

    async def _member(self, slots: int) -> None:
        port = free_port()
        config = EnvironmentConfig(
            port=port,
            environment=EnvironmentSource(protocol="Fake"),
            slots=slots,
            broker_url=f"http://127.0.0.1:{self.broker_port}",
            report_seconds=0.2,
            drain_seconds=0.0,
            lifecycle={"quarantine": 1000},  # type: ignore[arg-type]
        )
        member = Member(config, Identity("member", "", "127.0.0.1", "uid"), Backend("fake", FakeEnvironment))
        member.url = f"http://127.0.0.1:{port}"
        self.member = member
        await self.stack.enter_async_context(serving(make_member(member, None), port=port))

    def agent_config(self, **changes: Any) -> AgentConfig:
        """A Chat agent of four episodes at once."""
        settings: dict[str, Any] = {
            "model": str(self.folder / "model"),
            "data_url": f"http://127.0.0.1:{self.data_port}",
            "gateway_url": self.gateway_url,
            "pools": [
                {
                    "name": "lake",
                    "broker_url": f"http://127.0.0.1:{self.broker_port}",
                    "credential": "pool",
                }
            ],
            "concurrency": 4,
            "max_turns": 6,
            "max_tokens_per_turn": 3,
            "max_model_len": 200,
        }
        return AgentConfig.model_validate(settings | changes)

    @asynccontextmanager
    async def agent(self, name: str = "agent-0", **changes: Any) -> AsyncIterator[str]:
        """An agent at work while the block runs; gives its URL."""
        config = self.agent_config(**changes)
        harness = HARNESSES[config.harness.type](config)
        service = make_service(config, Identity(name, "", "127.0.0.1", f"uid-{name}"), harness)
        async with serving(service) as url:
            yield url

    async def until(self, condition: Callable[[], Any], seconds: float = 30.0) -> None:
        """Wait for something to come true."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, "it never came true"
            await asyncio.sleep(0.02)

    async def batch(self, groups: int = 1, version: int = 0) -> Batch:
        """A batch of the data manager."""
        assert self.manager is not None
        request = BatchRequest(trainer="trainer", version=version, groups=groups, wait=30)
        batch = await self.manager.lease_batch(request)
        assert batch is not None
        return batch

    async def trajectories(self) -> list[TrainTrajectory]:
        """Those of one group."""
        return (await self.batch()).groups[0].trajectories

    async def faults(self, outcome: str) -> int:
        """Faults of one outcome so far."""
        assert self.manager is not None
        return (await self.manager.status()).outcomes.get(outcome, 0)

    async def fault(self, outcome: str) -> None:
        """Wait for the first fault of an outcome."""
        for _ in range(1000):
            if await self.faults(outcome):
                return
            await asyncio.sleep(0.02)
        assert self.manager is not None
        raise AssertionError(f"no {outcome}: {await self.manager.status()}")

    async def idle(self, agent: str) -> None:
        """Wait until the agent at this URL plays no episode."""
        async with ServiceClient(agent) as client:
            for _ in range(1000):
                if (await client.get("/status", AgentStatus)).running == 0:
                    return
                await asyncio.sleep(0.02)
        raise AssertionError("an episode goes on")

    async def all_released(self) -> None:
        """Wait until no slot is leased."""
        async with ServiceClient(f"http://127.0.0.1:{self.broker_port}") as client:
            for _ in range(1000):
                if (await client.get("/status", BrokerStatus)).slots.leased == 0:
                    return
                await asyncio.sleep(0.02)
        raise AssertionError("a slot stays leased")


@asynccontextmanager
async def stage(folder: Path, slots: int = 4, **data: Any) -> AsyncIterator[Stage]:
    """A stage with one member."""
    async with AsyncExitStack() as stack:
        made = Stage(folder, stack)
        await made.start(slots, **data)
        yield made
