"""One episode from its assignment to its answer: lease, play, hand in, release. Every failure has its own name."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

import aiohttp

from shoal.api.services.leases import Lease, Outcome
from shoal.api.services.roles.agent import AgentConfig
from shoal.api.services.trajectories import Assignment, EpisodeOutcome, Prefix, Segment, TrajectoryRecord
from shoal_workers.agent.duties import Duties
from shoal_workers.agent.harness import Episode, EpisodeEnd, EpisodeFaultError, FleetInUseError, Harness
from shoal_workers.agent.held import LeaseLostError, while_held
from shoal_workers.agent.leased import LeasedEnvironment
from shoal_workers.agent.model import Model
from shoal_workers.agent.patience import FLEET_IN_USE
from shoal_workers.broker.client import BrokerClient
from shoal_workers.service import ProblemError, ServiceClient

# The member's own limit comes first: its answer says what hung.
ANSWER_MARGIN_SECONDS = 30.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Services:
    """Everything that an episode talks to; shared by all episodes of the process."""

    duties: Duties
    gateway: ServiceClient
    brokers: dict[str, BrokerClient]
    session: aiohttp.ClientSession
    harness: Harness
    config: AgentConfig
    stop_token_ids: tuple[int, ...]


class EpisodeRun:
    """One episode; `run` returns its outcome and never raises but for cancellation, which hands the episode back, and
    FleetInUseError, after which the caller hands it back.
    """

    def __init__(self, services: Services, assignment: Assignment) -> None:
        self._services = services
        self.assignment = assignment
        self.turns = 0
        self._episode_id = uuid4().hex
        self._episode: Episode | None = None
        self._started = time.time()

    async def run(self) -> EpisodeOutcome:
        """Play it and answer for it."""
        duties = self._services.duties
        try:
            end = await self._leased()
            check_lengths(end.segments, self._services.config.max_model_len)
            await duties.record(self._record(end))
        except EpisodeFaultError as fault:
            await self._failed(fault.outcome, fault.detail)
            return fault.outcome
        except asyncio.CancelledError:
            await self.hand_back()
            raise
        except FleetInUseError:
            # The caller first stops claiming: what is handed back before that is claimed at once and refused again.
            raise
        except ProblemError as error:
            # The data manager refused the record, and would refuse it again.
            await self._failed(EpisodeOutcome.AGENT_ERROR, f"record: {error}")
            return EpisodeOutcome.AGENT_ERROR
        except Exception as error:
            logger.exception("the harness failed")
            await self._failed(EpisodeOutcome.AGENT_ERROR, f"{type(error).__name__}: {error}")
            return EpisodeOutcome.AGENT_ERROR
        self.turns = end.turns
        return end.outcome

    async def hand_back(self) -> None:
        """Give the episode to whoever claims it next, with what it had reached."""
        prefix = self._episode.tape.prefix() if self._episode is not None else Prefix()
        await asyncio.shield(self._services.duties.hand_back(self.assignment, prefix))

    async def _failed(self, outcome: EpisodeOutcome, detail: str) -> None:
        logger.warning("episode failed", extra={"assignment": self.assignment.id, "outcome": outcome, "detail": detail})
        await self._services.duties.fail(self.assignment, outcome, detail)

    async def _leased(self) -> EpisodeEnd:
        """Play inside a lease, which is given back whatever happens."""
        broker = self._services.brokers.get(self.assignment.environment)
        if broker is None:
            unknown = f"no pool for environment {self.assignment.environment!r}"
            raise EpisodeFaultError(EpisodeOutcome.AGENT_ERROR, unknown)
        lease = await self._acquire(broker)
        outcome = Outcome.DIRTY
        try:
            end = await self._play(broker, lease)
            outcome = Outcome.OK
        except EpisodeFaultError as fault:
            broken = fault.outcome in (EpisodeOutcome.ENVIRONMENT_ERROR, EpisodeOutcome.GRADER_ERROR)
            # A lease that was lost says nothing against its slot.
            outcome = Outcome.FAULT if broken and not isinstance(fault, LeaseLostError) else Outcome.DIRTY
            raise
        finally:
            await asyncio.shield(broker.release(lease, outcome))
        return end

    async def _acquire(self, broker: BrokerClient) -> Lease:
        try:
            return await broker.acquire(self._episode_id, task=self.assignment.task_id)
        except ProblemError as error:
            raise EpisodeFaultError(EpisodeOutcome.ENVIRONMENT_ERROR, f"lease: {error}") from error

    async def _play(self, broker: BrokerClient, lease: Lease) -> EpisodeEnd:
        services = self._services
        patience = lease.answer_seconds + ANSWER_MARGIN_SECONDS
        environment = LeasedEnvironment(lease.environment_url, session=services.session, timeout=patience)
        self._episode = Episode(self.assignment, environment, self._model())
        async with broker.keeping(lease) as keeper:
            try:
                return await while_held(keeper, services.harness.play(self._episode))
            except ProblemError as error:
                if error.name == FLEET_IN_USE:
                    raise FleetInUseError(error.detail) from error
                if error.status == 429:
                    raise EpisodeFaultError(EpisodeOutcome.CANCELLED, str(error)) from error
                # The environment's failures have their own error; what is left is the gateway's.
                raise EpisodeFaultError(EpisodeOutcome.ENGINE_ERROR, str(error)) from error

    def _model(self) -> Model:
        services, assignment = self._services, self.assignment
        return Model(
            client=services.gateway,
            session=self._episode_id,
            temperature=assignment.temperature,
            top_p=services.config.top_p,
            stop_token_ids=services.stop_token_ids,
            min_version=assignment.min_version,
            run=services.config.run,
        )

    def _record(self, end: EpisodeEnd) -> TrajectoryRecord:
        assert self._episode is not None
        environment = self._episode.environment
        return TrajectoryRecord(
            assignment_id=self.assignment.id,
            episode_id=self._episode_id,
            segments=end.segments,
            reward=end.reward,
            outcome=end.outcome,
            turns=end.turns,
            turn_details=end.details,
            environment_seconds=environment.seconds if isinstance(environment, LeasedEnvironment) else 0.0,
            model_seconds=self._episode.model.seconds,
            started_at=self._started,
            finished_at=time.time(),
        )


def check_lengths(segments: Sequence[Segment], limit: int) -> None:
    """Raises EpisodeFaultError for a segment that is, shared prefix and all, longer than a trainer's `limit` tokens."""
    for number, segment in enumerate(segments, start=1):
        length = segment.shared + len(segment.token_ids)
        if length > limit:
            sizes = f"segment {number} of {len(segments)} has {length} tokens, max_model_len is {limit}"
            raise EpisodeFaultError(EpisodeOutcome.AGENT_ERROR, sizes)
