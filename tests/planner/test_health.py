"""What is told of pods in trouble; and that a resource which cannot work never says it is healthy."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.api.labels import Role
from shoal.api.services.common import Finding
from shoal.planner import health
from shoal.planner.actions import Plan
from shoal.planner.fleet import FleetReading, plan_fleet
from shoal.planner.health import START_SECONDS, STUCK_SECONDS
from shoal.planner.holders import Blocked
from shoal.planner.job import DependencyView, JobReading, plan_job
from shoal.planner.observed import LOST_SECONDS, Expected, PodView, Reading, Refused, Trouble
from shoal.planner.pool import MemberSlots, PoolReading, plan_pool
from shoal.planner.sizing import ScaleMemory
from tests.planner import test_fleet as fleets
from tests.planner import test_job as jobs
from tests.planner import test_pool as pools

BORN = 1_700_000_000.0


def pod(role: str = Role.ENVIRONMENT, **fields: Any) -> PodView:
    values = {"spec_hash": "h", "phase": "Running", "ready": False, "deleting": False, "node": "n1", "since": BORN}
    return PodView(name="p", uid="p", role=role, created_at=BORN, **(values | fields))


@pytest.mark.parametrize(
    ("seen", "after", "reason", "words"),
    [
        (pod(trouble=Trouble("CrashLoopBackOff", "no such folder")), 0, "EnvironmentFailed", "no such folder"),
        (pod(Role.ENGINE, trouble=Trouble("OOMKilled", "")), 0, "OutOfMemory", "OOMKilled"),
        (pod(trouble=Trouble("ImagePullBackOff", "no such image")), 0, "ImagePullFailed", "no such image"),
        (pod(trouble=Trouble("CreateContainerConfigError", "secret x")), 0, "ConfigurationMissing", "secret x"),
        (pod(trouble=Trouble("RunContainerError", "exec: foo")), 0, "CannotStart", "exec: foo"),
        (pod(obstacle=Trouble("VolumeFailed", "timed out")), 0, "VolumeFailed", "timed out"),
        (pod(gated=True, node=""), 0, "SchedulingGated", "gates"),
        (pod(unschedulable="0/3 nodes", node=""), 0, "Unschedulable", "0/3 nodes"),
        (pod(node="", phase="Pending"), STUCK_SECONDS + 1, "NotScheduled", "no scheduler"),
        (pod(started=True), STUCK_SECONDS + 1, "PodNotReady", "on node n1"),
        (pod(phase="Pending", waiting="ContainerCreating"), START_SECONDS + 1, "StartsSlowly", "ContainerCreating"),
        *(
            (pod(role, ready=True, deleting=True, grace_until=BORN), LOST_SECONDS, "NodeLost", "out-of-service")
            for role in (Role.DATA, Role.TRAINER)
        ),
    ],
)
def test_each_trouble_has_its_reason_and_its_time(seen: PodView, after: float, reason: str, words: str) -> None:
    told = health.degraded([seen], now=BORN + after)
    assert (told.status, told.reason) == (True, reason)
    assert words in told.message
    assert "pod p" in told.message
    if after:
        assert health.degraded([seen], now=BORN + after - 2).status is False
        wait = health.next_look([seen], BORN)
        assert wait is not None
        assert wait <= after, "time alone changes this, so the plan has to come again"


@pytest.mark.parametrize(
    "fine",
    [
        pod(ready=True, started=True),
        pod(started=True, ready=False, since=BORN + STUCK_SECONDS),
        pod(Role.ENVIRONMENT, deleting=True, grace_until=BORN),
        pod(trouble=Trouble("Evicted", ""), disrupted="TerminationByKubelet", phase="Failed"),
    ],
)
def test_what_passes_or_is_replaced_anyway_is_no_trouble(fine: PodView) -> None:
    assert health.degraded([fine], now=BORN + STUCK_SECONDS + 1) == health.degraded([], now=BORN)


def test_a_crash_outranks_what_is_only_waited_for() -> None:
    gated, crashed = pod(gated=True), pod(Role.TRAINER, trouble=Trouble("Error", "exit code 1"))
    assert health.degraded([gated, crashed], now=BORN).reason == "TrainerFailed"


def test_what_the_user_left_out_comes_first() -> None:
    broker = pod(Role.BROKER, obstacle=Trouble("PodSandboxFailed", "no network"))
    crashed = pod(Role.AGENT, trouble=Trouble("Error", "exit code 1"))
    member = pod(obstacle=Trouble("ConfigurationMissing", 'secret "creds" not found'))
    assert health.degraded([broker, crashed, member], now=BORN).reason == "ConfigurationMissing"


def test_a_service_that_only_the_operator_cannot_reach_is_told() -> None:
    broker = pod(Role.BROKER, ready=True, ip="10.0.0.7")
    late = BORN + STUCK_SECONDS + 1
    assert health.unreachable([broker], Role.BROKER, Reading(error="timeout"), late - 2) is None
    assert health.unreachable([broker], Role.BROKER, Reading("x", age=1.0), late) is None
    for silent in (Reading[str](error="timeout"), Reading("x", age=STUCK_SECONDS + 1, error="timeout")):
        told = health.unreachable([broker], Role.BROKER, silent, late)
        assert told is not None
        assert (told.reason, "timeout" in told.message, "10.0.0.7" in told.message) == (
            "ServiceUnreachable",
            True,
            True,
        )


def test_findings_are_told_as_they_are_and_the_fatal_first() -> None:
    mild, fatal = Finding(reason="Mild", message="a."), Finding(reason="Bad", message="b.", fatal=True)
    assert health.degraded([], now=BORN, findings=[mild, fatal]).reason == "Bad"
    assert health.degraded([], now=BORN, findings=[mild]).message == "a."


# --- over random clusters

AGE = STUCK_SECONDS + LOST_SECONDS + 1
NOW = BORN + AGE
pod_states: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"ready": True, "started": True, "ip": "10.0.0.1"},
        {"started": True},
        {"phase": "Pending", "waiting": "ContainerCreating"},
        {"phase": "Pending", "waiting": "ContainerCreating", "obstacle": Trouble("VolumeFailed", "timed out")},
        {"phase": "Pending", "node": ""},
        {"phase": "Pending", "node": "", "gated": True},
        {"phase": "Pending", "node": "", "unschedulable": "0/3 nodes are available"},
        {"trouble": Trouble("CrashLoopBackOff", "no such folder")},
        {"phase": "Failed", "trouble": Trouble("Error", "exit code 3")},
        {"phase": "Failed", "trouble": Trouble("Evicted", "low on memory"), "disrupted": "TerminationByKubelet"},
        {"deleting": True, "grace_until": BORN, "ready": True, "started": True},
        {"deleting": True, "grace_until": NOW + 5, "ready": True, "started": True},
    ]
)
absent_or = st.one_of(st.none(), pod_states)
refusals = st.sampled_from([None, Refused("CreateRefused", "exceeded quota"), Refused("NameTaken", "somebody has it")])


def made(sample: PodView, fields: dict[str, Any] | None, number: int = 0) -> list[PodView]:
    if fields is None:
        return []
    values = {"ready": False, "started": False, "node": "n1", "since": BORN, "ip": ""} | fields
    return [replace(sample, uid=f"{sample.uid}{number}", created_at=BORN, **values)]


def told(plan: Plan, working: bool) -> None:
    """A resource that can work may say what it likes; any other names a cause, and never says that all is well."""
    conditions = {each["type"]: each for each in plan.status["conditions"]}
    if working:
        return
    degraded = conditions["Degraded"]
    assert degraded["reason"] != "AllHealthy", plan.status
    bad = [each for type_, each in conditions.items() if (each["status"] == "True") == (type_ == "Degraded")]
    named = [each for each in bad if each["message"]]
    assert named, plan.status


@settings(max_examples=300, deadline=None)
@given(
    broker=absent_or,
    members=st.lists(pod_states, max_size=3),
    answers=st.booleans(),
    refused=refusals,
    blocked=st.booleans(),
)
def test_a_pool_that_cannot_work_names_the_cause(
    broker: dict[str, Any] | None, members: list[dict[str, Any]], answers: bool, refused: Refused | None, blocked: bool
) -> None:
    pods = made(pools.broker_pod(), broker)
    for number, fields in enumerate(members):
        pods += made(pools.member(f"m{number}"), fields, number)
    reading = PoolReading({each.name: MemberSlots(free=1, total=1) for each in pods}) if answers else None
    causes = {Role.BROKER: refused, "environment/default": refused} if refused is not None else {}
    seen = replace(
        pools.observed(pods, reading),
        expected=Expected(refused=causes),
        blocked=Blocked("BackendMissing", "not installed") if blocked else None,
    )
    plan = plan_pool(pools.spec(replicas=2), pools.DESIRED, seen, {}, NOW)
    ready = [each for each in pods if each.role == Role.ENVIRONMENT and each.ready and not each.deleting]
    told(plan, working=answers and bool(ready) and not blocked)


@settings(max_examples=300, deadline=None)
@given(gateway=absent_or, engines=st.lists(pod_states, max_size=3), answers=st.booleans(), refused=refusals)
def test_a_fleet_that_cannot_work_names_the_cause(
    gateway: dict[str, Any] | None, engines: list[dict[str, Any]], answers: bool, refused: Refused | None
) -> None:
    pods = made(fleets.GATEWAY, gateway)
    for number, fields in enumerate(engines):
        pods += made(fleets.engine(f"e{number}"), fields, number)
    serving = [each.name for each in pods if each.role == Role.ENGINE and each.ready and not each.deleting]
    reading: FleetReading | None = fleets.reading(*serving) if answers else None
    causes = {Role.GATEWAY: refused, "engine/gpu": refused} if refused is not None else {}
    observed = fleets.FleetObserved(
        1, fleets.RolloutFleetStatus(), pods, {}, Expected(refused=causes), Reading(reading, 0.0)
    )
    plan = plan_fleet(fleets.spec(), fleets.DESIRED, observed, ScaleMemory(), NOW)
    told(plan, working=answers and bool(serving))


@settings(max_examples=300, deadline=None)
@given(
    data=absent_or,
    trainer=absent_or,
    agents=st.lists(pod_states, max_size=2),
    answers=st.booleans(),
    refused=refusals,
    fleet=st.booleans(),
    pool=st.booleans(),
)
def test_a_job_that_cannot_work_names_the_cause(
    data: dict[str, Any] | None,
    trainer: dict[str, Any] | None,
    agents: list[dict[str, Any]],
    answers: bool,
    refused: Refused | None,
    fleet: bool,
    pool: bool,
) -> None:
    pods = [*made(jobs.DATA, data), *made(jobs.TRAINER, trainer)]
    for number, fields in enumerate(agents):
        pods += made(jobs.AGENTS[number], fields, number)
    causes = dict.fromkeys((Role.DATA, Role.TRAINER, Role.AGENT), refused) if refused is not None else {}
    seen = jobs.observed(
        pods,
        JobReading() if answers else None,
        expected=Expected(refused=causes),
        fleet=DependencyView("RolloutFleet", "f", fleet, jobs.UP if fleet else ()),
        environments=[DependencyView("EnvironmentPool", "p", pool, jobs.UP if pool else ())],
    )
    plan = plan_job(jobs.spec(backoffLimit={"trainer": 99, "data": 99, "agents": 99}), jobs.DESIRED, seen, NOW)
    roles = {each.role for each in pods if each.ready and not each.deleting}
    told(plan, working=answers and fleet and pool and {Role.DATA, Role.TRAINER, Role.AGENT} <= roles)
