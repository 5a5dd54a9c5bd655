"""Plans for jobs: from nothing to Complete, and each way to fail."""

from dataclasses import replace
from typing import Any

import pytest

from shoal.api.base import Condition
from shoal.api.labels import SPEC_HASH, Role
from shoal.api.services.common import Finding
from shoal.api.v1alpha1.jobstatus import RLJobStatus, RoleAttempts
from shoal.api.v1alpha1.rljob import RLJobSpec
from shoal.planner.actions import Apply, CreatePod, DeletePod, DeleteSelf, Event, Plan
from shoal.planner.job import LINGER_SECONDS, DependencyView, JobDesired, JobObserved, JobReading, plan_job
from shoal.planner.observed import Expected, PodView, Reading, Refused, Trouble
from shoal.planner.times import timestamp

NOW = 1_700_000_000.0


def manifest(name: str, digest: str, kind: str = "Pod") -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "annotations": {SPEC_HASH: digest}}}


DESIRED = JobDesired(
    children=(manifest("j-fleet", "up", "RolloutFleet"),),
    resting=(manifest("j-fleet", "down", "RolloutFleet"),),
    data=manifest("j-data", "d1"),
    trainer=manifest("j-trainer", "t1"),
    agent=manifest("j-agent-", "a1"),
    agents=2,
)
UP = [Condition(type="Available", status="True", reason="Serving", last_transition_time=timestamp(NOW))]


def spec(**fields: Any) -> RLJobSpec:
    base = {
        "model": {"source": "file:/m"},
        "fleet": {"ref": {"name": "f"}},
        "environments": [{"name": "e", "ref": {"name": "p"}}],
        "trainer": {"steps": 10},
        "storage": {"hostPath": {"path": "/s"}},
    }
    return RLJobSpec.model_validate(base | fields)


def pod(name: str, role: str, digest: str, **fields: Any) -> PodView:
    values = {"phase": "Running", "ready": True, "deleting": False}
    return PodView(name=name, uid=name, role=role, spec_hash=digest, created_at=NOW, **(values | fields))


DATA, TRAINER = pod("j-data", Role.DATA, "d1"), pod("j-trainer", Role.TRAINER, "t1")
AGENTS = [pod("j-agent-x", Role.AGENT, "a1"), pod("j-agent-y", Role.AGENT, "a1")]
ALL = [DATA, TRAINER, *AGENTS]


def observed(pods: list[PodView], reading: JobReading | None = None, **fields: Any) -> JobObserved:
    seen = JobObserved(
        generation=1,
        status=RLJobStatus(),
        pods=pods,
        children={("RolloutFleet", "j-fleet"): "up"},
        expected=Expected(),
        fleet=DependencyView("RolloutFleet", "f", True, UP),
        environments=[DependencyView("EnvironmentPool", "p", True, UP)],
        data=Reading(reading, 0.0),
    )
    return replace(seen, **fields)


def of(plan: Plan, kind: type) -> list[Any]:
    return [action for action in plan.actions if isinstance(action, kind)]


def conditions(plan: Plan) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in plan.status["conditions"]}


def ended(type_: str, since: float = NOW) -> RLJobStatus:
    condition = Condition(
        type=type_, status="True", reason="Because", message="so", last_transition_time=timestamp(since)
    )
    return RLJobStatus(conditions=[condition], completion_time=timestamp(since))


def test_the_data_manager_comes_first_and_owned_planes_with_it() -> None:
    plan = plan_job(spec(), DESIRED, observed([], children={}), NOW)
    assert [action.manifest["kind"] for action in of(plan, Apply)] == ["RolloutFleet"]
    assert [action.role for action in of(plan, CreatePod)] == [Role.DATA]
    assert plan.status["phase"] == "Pending"


def test_trainer_and_agents_follow_once_it_answers() -> None:
    plan = plan_job(spec(), DESIRED, observed([DATA], JobReading()), NOW)
    assert [action.role for action in of(plan, CreatePod)] == [Role.TRAINER, Role.AGENT, Role.AGENT]
    assert plan.status["phase"] == "Starting"


def test_what_runs_outlives_the_data_managers_silence() -> None:
    """As after a restart of the operator, which has asked nobody yet, or of the data manager."""
    for pods in (ALL, [TRAINER, *AGENTS]):
        plan = plan_job(spec(), DESIRED, observed(pods), NOW)
        assert of(plan, DeletePod) == []
    assert [action.role for action in of(plan, CreatePod)] == [Role.DATA]


def test_runs_when_every_plane_does() -> None:
    plan = plan_job(spec(), DESIRED, observed(ALL, JobReading(step=3, version=3)), NOW)
    assert (plan.status["phase"], plan.status["step"], plan.status["weightVersion"]) == ("Running", 3, 3)
    assert conditions(plan)["Progressing"] == ("True", "Training")
    assert [action for action in plan.actions if not isinstance(action, Event)] == []


def test_a_missing_pool_is_named() -> None:
    missing = [DependencyView("EnvironmentPool", "p", False)]
    plan = plan_job(spec(), DESIRED, observed([DATA], JobReading(), environments=missing), NOW)
    assert conditions(plan)["EnvironmentsReady"] == ("False", "NotFound")
    assert conditions(plan)["Degraded"] == ("True", "DependencyDegraded")
    assert Role.AGENT not in [action.role for action in of(plan, CreatePod)]


def test_complete_stops_agents_and_trainer_and_rests_owned_planes() -> None:
    plan = plan_job(spec(), DESIRED, observed(ALL, JobReading(step=10, version=10, complete=True)), NOW)
    assert conditions(plan)["Complete"] == ("True", "Finished")
    assert {action.name for action in of(plan, DeletePod)} == {"j-trainer", "j-agent-x", "j-agent-y"}
    assert [action.manifest["metadata"]["annotations"][SPEC_HASH] for action in of(plan, Apply)] == ["down"]
    assert plan.requeue_after == pytest.approx(LINGER_SECONDS)


def test_the_data_manager_lingers_and_then_goes() -> None:
    resting = {("RolloutFleet", "j-fleet"): "down"}
    plan = plan_job(
        spec(), DESIRED, observed([DATA], status=ended("Complete"), children=resting), NOW + LINGER_SECONDS - 1
    )
    assert of(plan, DeletePod) == []
    plan = plan_job(spec(), DESIRED, observed([DATA], status=ended("Complete"), children=resting), NOW + LINGER_SECONDS)
    assert [action.name for action in of(plan, DeletePod)] == ["j-data"]


def test_an_ended_job_never_starts_again() -> None:
    plan = plan_job(spec(), DESIRED, observed([], JobReading(), status=ended("Failed")), NOW + 1e6)
    assert of(plan, CreatePod) == []
    assert plan.status["phase"] == "Failed"


def test_time_to_live_deletes_the_job() -> None:
    seen = observed([], status=ended("Complete"))
    assert of(plan_job(spec(ttlSecondsAfterFinished=5), DESIRED, seen, NOW + 4), DeleteSelf) == []
    assert len(of(plan_job(spec(ttlSecondsAfterFinished=5), DESIRED, seen, NOW + 5), DeleteSelf)) == 1


def test_deadline_fails_the_job() -> None:
    status = RLJobStatus(start_time=timestamp(NOW))
    plan = plan_job(spec(activeDeadlineSeconds=60), DESIRED, observed(ALL, JobReading(), status=status), NOW + 59)
    assert plan.requeue_after == pytest.approx(1.0)
    plan = plan_job(spec(activeDeadlineSeconds=60), DESIRED, observed(ALL, JobReading(), status=status), NOW + 60)
    assert conditions(plan)["Failed"] == ("True", "DeadlineExceeded")


def test_too_many_failures_of_a_role_fail_the_job_with_its_last_words() -> None:
    crashing = replace(
        TRAINER, ready=False, restarts=3, trouble=Trouble("CrashLoopBackOff", "model.source: no such folder")
    )
    plan = plan_job(spec(backoffLimit={"trainer": 2}), DESIRED, observed([DATA, crashing, *AGENTS], JobReading()), NOW)
    assert conditions(plan)["Failed"] == ("True", "BackoffLimitExceeded")
    (failed,) = [each for each in plan.status["conditions"] if each["type"] == "Failed"]
    assert "no such folder" in failed["message"]


def test_failures_are_not_forgotten_with_their_pod() -> None:
    status = RLJobStatus(attempts=RoleAttempts(trainer=2))
    assert plan_job(spec(), DESIRED, observed(ALL, JobReading(), status=status), NOW).status["attempts"]["trainer"] == 2


@pytest.mark.parametrize(
    "spared",
    [
        {"disrupted": "TerminationByKubelet", "phase": "Failed"},
        {"deleting": True, "phase": "Failed"},
        {"own_fault": False, "phase": "Failed"},
        {"own_fault": False, "restarts": 1},
    ],
)
@pytest.mark.parametrize("sample", [DATA, TRAINER, AGENTS[0]])
def test_disruption_is_no_failure(sample: PodView, spared: dict[str, Any]) -> None:
    """However often: seven evictions of one role leave its attempts as they were, and the job running."""
    status = RLJobStatus()
    limits = {"trainer": 0, "data": 0, "agents": 0}
    for number in range(7):
        pods = [replace(each, uid=f"u{number}", **spared) if each is sample else each for each in ALL]
        plan = plan_job(spec(backoffLimit=limits), DESIRED, observed(pods, JobReading(), status=status), NOW)
        status = RLJobStatus.model_validate(plan.status)
    assert (status.attempts.trainer, status.attempts.data, status.attempts.agents) == (0, 0, 0)
    assert conditions(plan)["Failed"][0] == "False"


def test_a_failure_after_a_disruption_of_one_pod_counts_alone() -> None:
    """Restarted by its node twice, then by its own fault once: one failure."""
    status = RLJobStatus()
    for restarts, own in ((1, False), (2, False), (3, True)):
        crashed = replace(TRAINER, restarts=restarts, own_fault=own)
        seen = observed([DATA, crashed, *AGENTS], JobReading(), status=status)
        status = RLJobStatus.model_validate(plan_job(spec(), DESIRED, seen, NOW).status)
    assert status.attempts.trainer == 1


def test_failures_of_pods_in_a_row_add_up_and_each_counts_once() -> None:
    status = RLJobStatus()
    for number in range(3):
        crashed = replace(TRAINER, uid=f"t{number}", phase="Failed", ready=False)
        for _ in range(2):
            seen = observed([DATA, crashed, *AGENTS], JobReading(), status=status)
            plan = plan_job(spec(backoffLimit={"trainer": 2}), DESIRED, seen, NOW)
            status = RLJobStatus.model_validate(plan.status)
            assert status.attempts.trainer == number + 1
    assert conditions(plan)["Failed"] == ("True", "BackoffLimitExceeded")


def test_somebody_elses_pool_of_the_same_name_is_left_alone() -> None:
    theirs = DependencyView("RolloutFleet", "j-fleet", True, UP, owned=True, foreign=True)
    plan = plan_job(spec(), DESIRED, observed(ALL, JobReading(), fleet=theirs, children={}), NOW)
    assert ("RolloutFleet", "j-fleet") not in {
        (action.manifest["kind"], action.manifest["metadata"]["name"]) for action in of(plan, Apply)
    }
    assert conditions(plan)["FleetReady"][0] == "False"
    (degraded,) = [each for each in plan.status["conditions"] if each["type"] == "Degraded"]
    assert "not this job's" in degraded["message"]


def test_a_fleet_with_another_runs_weights_is_told_of() -> None:
    held = DependencyView("RolloutFleet", "shared", True, UP, held_by="other-1a2b3c4d")
    plan = plan_job(spec(), DESIRED, observed(ALL, JobReading(), fleet=held), NOW)
    (degraded,) = [each for each in plan.status["conditions"] if each["type"] == "Degraded"]
    assert (degraded["status"], degraded["reason"]) == ("True", "DependencyDegraded")
    assert "RolloutFleet shared serves the weights of run other-1a2b3c4d" in degraded["message"]


def test_a_name_that_somebody_else_has_is_told_of() -> None:
    taken = Expected(refused={Role.DATA: Refused("NameTaken", "Pod j-data does not belong to RLJob j")})
    plan = plan_job(spec(), DESIRED, observed([TRAINER, *AGENTS], JobReading(), expected=taken), NOW)
    assert conditions(plan)["Degraded"] == ("True", "NameTaken")


def test_a_refusal_counts_while_something_is_missing() -> None:
    refused = Expected(refused={Role.AGENT: Refused("CreateRefused", "pod of role agent: quota")})
    missing = plan_job(spec(), DESIRED, observed([DATA, TRAINER], JobReading(), expected=refused), NOW)
    assert conditions(missing)["Degraded"] == ("True", "CreateRefused")
    whole = plan_job(spec(), DESIRED, observed(ALL, JobReading(), expected=refused), NOW)
    assert conditions(whole)["Degraded"][0] == "False"


@pytest.mark.parametrize("who", ["data", "others"])
def test_a_fatal_finding_fails_the_job_and_any_other_degrades_it(who: str) -> None:
    def plan(*findings: Finding) -> Plan:
        told = {"findings": findings} if who == "others" else {}
        return plan_job(spec(), DESIRED, observed(ALL, JobReading(findings=() if told else findings), **told), NOW)

    slow = Finding(reason="RewardsDoNotVary", message="every group has one reward")
    assert conditions(plan(slow))["Failed"][0] == "False"
    assert conditions(plan(slow))["Degraded"] == ("True", "RewardsDoNotVary")
    halted = Finding(reason="TooManyFaults", message="10 environment faults in a row", fatal=True)
    assert conditions(plan(slow, halted))["Failed"] == ("True", "TooManyFaults")
    assert conditions(plan())["Degraded"] == ("False", "AllHealthy")


def test_suspend_lets_all_pods_go_and_resume_brings_them_back() -> None:
    suspended = plan_job(spec(suspend=True), DESIRED, observed(ALL, JobReading(step=4)), NOW)
    assert {action.name for action in of(suspended, DeletePod)} == {each.name for each in ALL}
    assert suspended.status["phase"] == "Suspended"
    assert suspended.status["step"] == 4
    resumed = plan_job(spec(), DESIRED, observed([], children={("RolloutFleet", "j-fleet"): "down"}), NOW)
    assert [action.role for action in of(resumed, CreatePod)] == [Role.DATA]
    assert len(of(resumed, Apply)) == 1


def test_what_no_restart_can_cure_fails_the_job_at_once_with_its_cause() -> None:
    wrong = replace(TRAINER, ready=False, restarts=1, incurable="trainer: folder: /data cannot be written")
    plan = plan_job(spec(backoffLimit={"trainer": 5}), DESIRED, observed([DATA, wrong, *AGENTS], JobReading()), NOW)
    assert conditions(plan)["Failed"] == ("True", "Misconfigured")
    (failed,) = [each for each in plan.status["conditions"] if each["type"] == "Failed"]
    assert failed["message"] == "pod j-trainer: trainer: folder: /data cannot be written"
    for spared in (replace(wrong, deleting=True), replace(wrong, own_fault=False)):
        plan = plan_job(
            spec(backoffLimit={"trainer": 5}), DESIRED, observed([DATA, spared, *AGENTS], JobReading()), NOW
        )
        assert conditions(plan)["Failed"][0] == "False"


def test_an_own_pool_that_can_never_serve_fails_the_job_with_its_cause() -> None:
    said = Condition(
        type="Degraded",
        status="True",
        reason="Misconfigured",
        message="pod p-0: environment.entrypoint: there is no Nope",
        last_transition_time=timestamp(NOW),
    )
    wrong = DependencyView("EnvironmentPool", "p", True, [said], owned=True)
    plan = plan_job(spec(), DESIRED, observed(ALL, JobReading(), environments=[wrong]), NOW)
    assert conditions(plan)["Failed"] == ("True", "Misconfigured")
    (failed,) = [each for each in plan.status["conditions"] if each["type"] == "Failed"]
    assert "environment.entrypoint: there is no Nope" in failed["message"]
    crashed = said.model_copy(update={"reason": "EnvironmentFailed"})
    for spared in (
        replace(wrong, owned=False),
        replace(wrong, foreign=True),
        replace(wrong, conditions=[*UP, said]),
        replace(wrong, conditions=[crashed]),
    ):
        plan = plan_job(spec(), DESIRED, observed(ALL, JobReading(), environments=[spared]), NOW)
        assert conditions(plan)["Failed"][0] == "False", spared


def test_the_last_words_are_told_also_when_the_container_runs_again() -> None:
    again = replace(TRAINER, restarts=3, last_words="trainer: no space left on device")
    plan = plan_job(spec(backoffLimit={"trainer": 2}), DESIRED, observed([DATA, again, *AGENTS], JobReading()), NOW)
    (failed,) = [each for each in plan.status["conditions"] if each["type"] == "Failed"]
    assert failed["message"] == "trainer failed 3 times; trainer: no space left on device"
