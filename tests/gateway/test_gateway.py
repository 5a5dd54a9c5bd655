"""The gateway over real sockets: roll-outs under load, faults, the OpenAI routes."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from shoal.api.services.common import VersionSpan
from shoal.api.services.models import (
    EnginePhase,
    EngineReport,
    EngineStatus,
    GenerateRequest,
    GenerateResult,
    InFlightPolicy,
    SamplingParameters,
    SessionRecord,
    SessionSettings,
    WeightsState,
    WeightsTarget,
)
from shoal.api.services.roles.gateway import GatewayConfig
from shoal_workers.gateway.admission import Admission
from shoal_workers.gateway.calls import LOSSES
from shoal_workers.gateway.engines import Engines
from shoal_workers.gateway.routing import make_router
from shoal_workers.gateway.server import make_gateway
from shoal_workers.service import ProblemError, ServiceClient, serving
from tests.engines.fake_process import FakeProcess, fake_process
from tests.engines.fakes import FakeCore, fake_logprob, write_manifest, write_version
from tests.gateway.fleets import ENGINE_TOKEN, INTERVAL, TOKEN, Fleet, fleet, request, routed, until
from tests.models import write_tokenizer


def check(result: GenerateResult, tokens: int) -> None:
    """An answer is whole: tokens in order, a log-probability of the version that its span says."""
    assert result.token_ids == list(range(3, 3 + tokens))
    assert [span.start for span in result.versions[1:]] == [span.end for span in result.versions[:-1]]
    assert (result.versions[0].start, result.versions[-1].end) == (0, tokens)
    for span in result.versions:
        assert result.logprobs[span.start : span.end] == [fake_logprob(span.version)] * (span.end - span.start)


async def test_spreads_calls_and_says_what_it_does() -> None:
    async with fleet("a", "b") as running:
        results = await asyncio.gather(*(running.generate(5) for _ in range(20)))
        for result in results:
            check(result, 5)
        assert set(Counter(result.engine for result in results)) == {"a", "b"}
        status = await running.status()
        assert (status.requests, status.errors, status.queued, status.running) == (20, 0, 0, 0)
        assert 0 < status.latency_p50 <= status.latency_p99
        metrics = (await running.client.call("GET", "/metrics")).body.decode()
        assert "shoal_gateway_requests_total 20.0" in metrics


async def test_rolls_out_while_serving(tmp_path: Path) -> None:
    async with fleet() as running:
        for name in ("a", "b", "c"):
            await running.add(name, FakeCore(load_seconds=0.1))
        await running.until(lambda status: len(routed(status)) == 3)
        stop = asyncio.Event()
        results: list[GenerateResult] = []
        fewest = [3]

        async def load() -> None:
            while not stop.is_set():
                results.append(await running.generate(10))

        async def watch() -> None:
            while not stop.is_set():
                fewest[0] = min(fewest[0], len(running.gateway.engines.serving))
                await asyncio.sleep(0.005)

        tasks = [*(asyncio.create_task(load()) for _ in range(12)), asyncio.create_task(watch())]
        for version in (1, 2, 3):
            await running.publish(tmp_path, version)
            await asyncio.sleep(0.15)
        status = await running.until(lambda status: status.min_version == 3 and len(routed(status)) == 3)
        stop.set()
        await asyncio.gather(*tasks)
        for result in results:
            check(result, 10)
        assert fewest[0] >= 2
        assert status.served_while_updating > 0
        assert (status.errors, status.updates >= 3) == (0, True)
        check(await running.generate(5, min_version=3), 5)


async def test_one_engine_is_updated_while_calls_wait(tmp_path: Path) -> None:
    async with fleet() as running:
        await running.add("a", FakeCore(load_seconds=0.3))
        await running.until(lambda status: routed(status) == {"a"})
        long = asyncio.create_task(running.generate(200))
        await running.until(lambda status: status.running == 1)
        await running.publish(tmp_path, 1)
        await running.until(lambda status: not routed(status))
        waiting = asyncio.create_task(running.generate(5))
        await running.until(lambda status: status.queued == 1)
        assert (await waiting).versions == [VersionSpan(version=1, start=0, end=5)]
        result = await long
        check(result, 200)
        assert [span.version for span in result.versions] == [0, 1]
        assert (await running.status()).served_while_updating == 0


async def test_abort_and_resume_continues_elsewhere_with_the_prefix(tmp_path: Path) -> None:
    async with fleet("a", "b", in_flight=InFlightPolicy.ABORT_AND_RESUME) as running:
        calls = [asyncio.create_task(running.generate(150)) for _ in range(6)]
        await running.until(lambda status: status.running == 6)
        await asyncio.sleep(0.05)
        await running.publish(tmp_path, 1)
        results = await asyncio.gather(*calls)
        for result in results:
            check(result, 150)
        assert (await running.status()).retries >= 3


async def test_waits_for_the_weights_a_call_asks_for(tmp_path: Path) -> None:
    async with fleet("a") as running:
        waiting = asyncio.create_task(running.generate(3, min_version=1))
        await running.until(lambda status: status.queued == 1)
        check(await running.generate(3), 3)
        await running.publish(tmp_path, 1)
        assert (await waiting).versions[0].version == 1


async def test_engine_killed_in_the_middle_of_calls() -> None:
    async with fleet("b") as running:
        with fake_process_of(running, "a") as victim:
            await running.until(lambda status: routed(status) == {"a", "b"})
            calls = [asyncio.create_task(running.generate(100)) for _ in range(8)]
            await running.until(lambda status: {e.name for e in status.engines if e.running >= 4} == {"a", "b"})
            victim.kill()
            results = await asyncio.gather(*calls)
            for result in results:
                check(result, 100)
            assert {result.engine for result in results} == {"b"}
            status = await running.until(lambda status: routed(status) == {"b"})
            assert (status.errors, status.retries >= 4) == (0, True)


async def test_engine_killed_in_the_middle_of_an_update(tmp_path: Path) -> None:
    async with fleet() as running:
        with fake_process_of(running, "a", load=30.0) as victim:
            await running.until(lambda status: routed(status) == {"a"})
            await running.add("b")
            await running.until(lambda status: routed(status) == {"a", "b"})
            await running.publish(tmp_path, 1)
            await running.until(lambda status: any(e.phase is EnginePhase.UPDATING for e in status.engines))
            victim.kill()
            status = await running.until(lambda status: routed(status) == {"b"} and status.max_version == 1)
            assert "a" in status.update_error
            check(await running.generate(5, min_version=1), 5)
        with fake_process_of(running, "a"):
            await running.until(lambda status: routed(status) == {"a", "b"} and status.min_version == 1)


async def test_engine_that_stops_gracefully_hands_calls_over() -> None:
    async with fleet("a", "b") as running:
        calls = [asyncio.create_task(running.generate(150)) for _ in range(4)]
        await running.until(lambda status: status.running == 4)
        await asyncio.sleep(0.05)
        await running.engines["a"].drain()
        for result in await asyncio.gather(*calls):
            check(result, 150)
        status = await running.until(lambda status: routed(status) == {"b"})
        assert status.errors == 0


async def test_gateway_that_restarts_learns_everything_from_its_engines(tmp_path: Path) -> None:
    async with fleet("a") as running:
        target = await running.publish(tmp_path, 4)
        await running.until(lambda status: status.min_version == 4)
        report = running.gateway.engines.known["a"].report
        reports = [report.model_copy(update={"status": running.engines["a"].status()})]
        again = make_gateway(running.gateway.engines._config, TOKEN, ENGINE_TOKEN)
        async with serving(again.service) as url, ServiceClient(url, token=TOKEN) as client:
            fresh = report.model_copy(
                update={
                    "name": "fresh",
                    "url": "http://127.0.0.1:9",
                    "status": report.status.model_copy(update={"weight_version": 0, "weights": None}),
                }
            )
            async with ServiceClient(url, token=ENGINE_TOKEN) as reporter:
                await reporter.put("/engines/fresh", fresh)
                for each in reports:
                    await reporter.put("/engines/a", each)
            weights = await client.get("/weights", WeightsState)
            assert weights.target == target
            assert again.engines.serving == {"a"}
            result = await client.post("/generate", request(5, min_version=4), GenerateResult)
            check(result, 5)


async def test_targets_only_grow_unless_reset(tmp_path: Path) -> None:
    async with fleet("a") as running:
        target = await running.publish(tmp_path, 4)
        await running.client.put("/weights/target", target)
        older = WeightsTarget(version=2, path=target.path)
        with pytest.raises(ProblemError, match="older-version") as refused:
            await running.client.put("/weights/target", older)
        assert refused.value.status == 409
        await running.client.put("/weights/target", older, params={"reset": "true"})
        await running.until(lambda status: status.max_version == 2)


async def test_weights_that_cannot_be_used_are_reported_and_replaced_by_the_next(tmp_path: Path) -> None:
    async with fleet("a") as running:
        await running.client.put("/weights/target", WeightsTarget(version=1, path=str(tmp_path / "gone")))
        status = await running.until(lambda status: bool(status.update_error))
        assert "no such folder" in status.update_error
        check(await running.generate(3), 3)
        await running.publish(tmp_path, 2)
        status = await running.until(lambda status: status.min_version == 2)
        assert (status.update_error, status.findings) == ("", [])


@pytest.mark.parametrize("kind", ["altered", "refused"])
async def test_a_bad_version_is_quarantined_and_the_fleet_goes_on(tmp_path: Path, kind: str) -> None:
    """Both engines would break at version 2; at most one is asked to load it, and neither stops serving for good."""
    cores = {name: FakeCore(bad_versions=frozenset({2})) for name in "abc"}
    async with fleet() as running:
        for name, core in cores.items():
            await running.add(name, core)
        await running.publish(tmp_path, 1, "r")
        await running.until(lambda status: status.min_version == 1 and routed(status) == set(cores))
        folder = write_version(tmp_path / "2")
        checksum = write_manifest(folder)
        if kind == "altered":
            file = folder / "model.safetensors"
            file.write_bytes(file.read_bytes()[:-1] + b"x")
        bad = WeightsTarget(version=2, path=str(folder), checksum=checksum, run="r")
        await running.client.put("/weights/target", bad)
        status = await running.until(
            lambda status: bool(status.findings) and "Quarantined" in status.findings[0].reason
        )
        assert str(folder) in status.findings[0].message
        assert status.findings[0].message.endswith("the fleet keeps version 1")
        # The trainer is told, as often as it asks.
        with pytest.raises(ProblemError, match="weights-quarantined") as refused:
            await running.client.put("/weights/target", bad)
        assert refused.value.status == 409
        status = await running.until(lambda status: routed(status) == set(cores))
        assert (status.min_version, status.max_version, status.target_version) == (1, 1, 2)
        check(await running.generate(5), 5)
        # One that joins gets the last good version.
        await running.add("d", FakeCore())
        await running.until(lambda status: routed(status) == {*cores, "d"} and status.min_version == 1)
        await running.publish(tmp_path, 3, "r")
        status = await running.until(lambda status: status.min_version == 3)
        assert (status.update_error, status.findings, status.errors) == ("", [], 0)


async def test_a_drained_engine_gets_nothing_more() -> None:
    async with fleet("a", "b") as running:
        assert (await running.client.call("POST", "/engines/a:drain")).json() == {"running": 0}
        assert {result.engine for result in await asyncio.gather(*(running.generate(2) for _ in range(6)))} == {"b"}
        with pytest.raises(ProblemError, match="unknown-engine"):
            await running.client.call("POST", "/engines/z:drain")
        await running.reporter.delete("/engines/a", params={"uid": "another"})
        assert len((await running.status()).engines) == 2


async def test_silence_takes_an_engine_out() -> None:
    async with fleet("a", missed_reports=2) as running:
        report = running.gateway.engines.known["a"].report.model_copy(update={"name": "mute", "uid": "x"})
        await running.reporter.put("/engines/mute", report)
        await running.until(lambda status: routed(status) == {"a", "mute"})
        status = await running.until(lambda status: routed(status) == {"a"})
        assert max(engine.age for engine in status.engines) > 2 * INTERVAL


async def test_calls_at_an_engine_that_vanishes_without_a_word_go_elsewhere(tmp_path: Path) -> None:
    """As when its machine loses power: connections stay open, and nothing ever comes."""
    async with fleet("b", missed_reports=3) as running:
        with fake_process_of(running, "a") as victim:
            await running.until(lambda status: routed(status) == {"a", "b"})
            calls = [asyncio.create_task(running.generate(100)) for _ in range(4)]
            await running.until(lambda status: {e.name for e in status.engines if e.running >= 2} == {"a", "b"})
            victim.process.send_signal(signal.SIGSTOP)
            await running.publish(tmp_path, 1)
            for result in await asyncio.gather(*calls):
                check(result, 100)
            status = await running.until(lambda status: routed(status) == {"b"} and status.min_version == 1)
            assert status.errors == 0
            victim.process.send_signal(signal.SIGCONT)
            await running.until(lambda status: routed(status) == {"a", "b"} and status.min_version == 1)


async def test_a_request_that_kills_engines_does_not_take_the_fleet_along() -> None:
    async with fleet("a", "b", "c", "d", "e", "f") as running:
        for engine in running.engines.values():

            async def dies(_: GenerateRequest) -> GenerateResult:
                raise ProblemError("engine-dead", "kernel fault", status=503)

            engine.generate = dies  # type: ignore[method-assign,assignment]
        with pytest.raises(ProblemError, match="kernel fault"):
            await running.generate(1)
        assert (await running.status()).retries == LOSSES - 1


async def test_a_caller_that_hangs_up_frees_its_place_at_the_engine() -> None:
    async with fleet("a") as running:
        calls = [asyncio.create_task(running.generate(100_000)) for _ in range(3)]
        await running.until(lambda status: status.running == 3)
        for call in calls:
            call.cancel()
        await running.until(lambda status: status.running == 0)
        await until(lambda: _none_left(running))
        check(await running.generate(3), 3)


async def test_refuses_when_the_queue_is_full_and_without_a_token() -> None:
    async with fleet(queue_limit=0) as running:
        with pytest.raises(ProblemError, match="queue-full") as full:
            await running.generate(1)
        assert full.value.status == 429
        async with ServiceClient(running.url) as stranger:
            with pytest.raises(ProblemError, match="unauthorized"):
                await stranger.post("/generate", request(1), GenerateResult)
        with pytest.raises(ProblemError, match="prompt_token_ids") as invalid:
            await running.client.call("POST", "/generate", {"request_id": "x", "prompt_token_ids": []})
        assert invalid.value.status == 422


async def test_a_bad_prompt_is_the_callers_fault() -> None:
    async with fleet("a") as running:
        with pytest.raises(ProblemError, match="invalid-prompt"):
            await running.generate(1, prompt_token_ids=[1] * 1001)
        assert (await running.status()).retries == 0
        assert routed(await running.status()) == {"a"}


async def test_openai_session_keeps_exact_tokens(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    async with fleet("a", model=str(tmp_path)) as running:
        call = running.client.call
        assert (await call("GET", "/v1/models")).json()["data"][0]["id"] == "policy"
        messages = [{"role": "user", "content": "state 7"}]
        path = "/sessions/s/v1/chat/completions"
        first = (await call("POST", path, {"model": "policy", "messages": messages, "max_tokens": 3})).json()
        choice = first["choices"][0]
        assert choice["token_ids"] == [7, 8, 9]
        assert choice["weight_versions"] == [{"version": 0, "start": 0, "end": 3}]
        messages += [choice["message"], {"role": "user", "content": "state 3"}]
        second = (await call("POST", path, {"messages": messages, "max_tokens": 2})).json()
        assert second["prompt_token_ids"][:10] == [*first["prompt_token_ids"], 7, 8, 9]
        record = await running.client.get("/sessions/s", SessionRecord)
        assert (record.calls, len(record.segments)) == (2, 1)
        assert sum(record.segments[0].loss_mask) == 5
        assert len(record.messages) == 4
        await running.client.delete("/sessions/s")
        with pytest.raises(ProblemError, match="unknown-session"):
            await running.client.get("/sessions/s", SessionRecord)


async def test_the_openai_librarys_own_client_in_a_session(tmp_path: Path) -> None:
    openai = pytest.importorskip("openai", reason="the openai package is not installed")
    write_tokenizer(tmp_path)
    async with fleet("a", model=str(tmp_path)) as running:
        await running.client.call("PUT", "/sessions/s", SessionSettings(sampling=SamplingParameters(max_tokens=3)))
        async with openai.AsyncOpenAI(base_url=f"{running.url}/sessions/s/v1", api_key=TOKEN, max_retries=0) as client:
            messages = [{"role": "user", "content": "state 7"}]
            first = await client.chat.completions.create(model="policy", messages=messages)
            assert first.usage.completion_tokens == 3
            messages += [first.choices[0].message.model_dump(), {"role": "user", "content": "state 3"}]
            second = await client.chat.completions.create(model="policy", messages=messages, max_tokens=2)
            assert len(second.choices[0].logprobs.content) == 2
            with pytest.raises(openai.UnprocessableEntityError, match="presence_penalty"):
                await client.chat.completions.create(model="policy", messages=messages, presence_penalty=1.0)
        record = await running.client.get("/sessions/s", SessionRecord)
        assert (record.opened, record.calls, len(record.segments)) == (True, 2, 1)


async def test_openai_errors_and_completions(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    async with fleet("a", model=str(tmp_path)) as running:
        done = (await running.client.call("POST", "/v1/completions", {"prompt": "state 7", "max_tokens": 2})).json()
        assert done["usage"] == {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}
        chat = {"messages": [{"role": "user", "content": "up"}], "top_k": -1, "metadata": {"any": "thing"}}
        assert (await running.client.call("POST", "/v1/chat/completions", {**chat, "max_tokens": 2})).status == 200
        for change, reason in (
            ({"model": "gpt"}, "unknown-model"),
            ({"n": 0}, "n: "),
            ({"top_logprobs": 5}, "top_logprobs"),
            ({"tool_choice": "required"}, "tool_choice"),
            ({"messages": []}, "messages"),
            ({"presence_penalty": 0.5}, "presence_penalty"),
            ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
            ({"response_format": {"type": "json_object"}}, "response_format"),
        ):
            with pytest.raises(ProblemError, match=reason):
                await running.client.call("POST", "/v1/chat/completions", {**chat, **change})


async def test_a_session_has_the_sampling_of_whoever_opened_it(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    async with fleet("a", model=str(tmp_path)) as running:
        settings = SessionSettings(sampling=SamplingParameters(max_tokens=2))
        await running.client.call("PUT", "/sessions/s", settings)
        body = {"messages": [{"role": "user", "content": "state 7"}]}
        unnamed = (await running.client.call("POST", "/sessions/s/v1/chat/completions", body)).json()
        assert unnamed["usage"]["completion_tokens"] == 2
        body["max_tokens"] = 50
        answer = (await running.client.call("POST", "/sessions/s/v1/chat/completions", body)).json()
        assert answer["usage"]["completion_tokens"] == 2
        check(await running.client.post("/sessions/s/generate", request(50), GenerateResult), 2)
        record = await running.client.get("/sessions/s", SessionRecord)
        assert (record.opened, record.calls) == (True, 3)


async def test_what_nobody_waited_for_is_not_in_the_record(tmp_path: Path) -> None:
    """A client that gives up asks again; both answers in one session would be two policies' turns for one."""
    write_tokenizer(tmp_path)
    async with fleet("a", model=str(tmp_path)) as running:
        await running.client.call(
            "PUT", "/sessions/s", SessionSettings(sampling=SamplingParameters(max_tokens=100_000))
        )
        body = {"messages": [{"role": "user", "content": "state 7"}], "max_tokens": 100_000}
        call = asyncio.create_task(running.client.call("POST", "/sessions/s/v1/chat/completions", body))
        await running.until(lambda status: status.running == 1)
        call.cancel()
        await running.until(lambda status: status.running == 0)
        await until(lambda: _none_left(running))
        assert (await running.client.get("/sessions/s", SessionRecord)).calls == 0


async def test_a_fleet_serves_one_run_at_a_time(tmp_path: Path) -> None:
    async with fleet("a", "b") as running:
        await running.publish(tmp_path, 7, "one")
        await running.until(lambda status: status.min_version == 7)
        check(await running.generate(3, run="one", min_version=7), 3)
        with pytest.raises(ProblemError, match=r"fleet-in-use.*'one'") as refused:
            await running.publish(tmp_path, 0, "two")
        assert refused.value.status == 409
        with pytest.raises(ProblemError, match="fleet-in-use"):
            await running.gateway.calls.generate(request(3, run="two"))
        with pytest.raises(ProblemError, match="fleet-in-use"):
            await running.client.call("PUT", "/sessions/s", SessionSettings(run="two"), retries=0)
        assert (await running.status()).run == "one"
        await running.client.call("DELETE", "/weights/target?run=two")
        with pytest.raises(ProblemError, match="fleet-in-use"):
            await running.publish(tmp_path, 0, "two")
        # What was being sampled when the fleet changed hands is nobody's.
        long = asyncio.create_task(running.gateway.calls.generate(request(900, run="one")))
        await running.until(lambda status: status.running == 1)
        await running.publish(tmp_path, 0, "two", reset=True)
        await running.until(lambda status: status.max_version == 0 and len(routed(status)) == 2)
        result = await running.generate(3, run="two")
        assert [span.version for span in result.versions] == [0]
        with pytest.raises(ProblemError, match="fleet-in-use"):
            await long


async def test_time_in_which_the_gateway_stood_still_is_no_engines_silence() -> None:
    now = [0.0]
    config = GatewayConfig(report_seconds=1.0, missed_reports=3)
    engines = Engines(config, Admission(make_router("LeastLoaded"), 8, 8), None, clock=lambda: now[0])
    status = EngineStatus(name="a", phase=EnginePhase.READY)

    def looks(seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            now[0] += 0.5
            engines.replan()

    looks(2)
    engines.report(EngineReport(name="a", uid="1", url="http://a", status=status))
    assert engines.serving == {"a"}
    now[0] += 60
    engines.replan()
    assert engines.serving == {"a"}
    looks(2.5)
    assert engines.serving == {"a"}
    looks(1)
    assert engines.serving == frozenset()


async def test_sessions_record_token_calls() -> None:
    async with fleet("a") as running:
        await running.client.post("/sessions/t/generate", request(4), GenerateResult)
        record = await running.client.get("/sessions/t", SessionRecord)
        assert record.segments[0].token_ids == [1, 1, 1, 3, 4, 5, 6]
        assert record.segments[0].versions == [VersionSpan(version=0, start=3, end=7)]


def fake_process_of(running: Fleet, name: str, load: float = 0.0) -> AbstractContextManager[FakeProcess]:
    """An engine process that talks to this fleet's gateway."""
    return fake_process(running.url, name, load=load, token=ENGINE_TOKEN)


async def _none_left(running: Fleet) -> bool | None:
    return True if running.engines["a"].status().running == 0 else None
