"""The engine around a core: life, aborts, in-place updates, faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shoal.api.services.common import VersionSpan
from shoal.api.services.models import (
    EnginePhase,
    FinishReason,
    FixedPrompt,
    GenerateRequest,
    InFlightPolicy,
    SamplingParameters,
    WeightsUpdate,
)
from shoal_workers.engines.core import CoreError
from shoal_workers.engines.engine import Engine
from shoal_workers.service import ProblemError
from tests.engines.fakes import FakeCore, fake_logprob, write_manifest, write_version


@asynccontextmanager
async def started(core: FakeCore, failures: list[BaseException] | None = None) -> AsyncIterator[Engine]:
    engine = Engine("e", core, on_failure=failures.append if failures is not None else None)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def ask(tokens: int, name: str = "r", prompt: int = 3, **fields: object) -> GenerateRequest:
    sampling = SamplingParameters(max_tokens=tokens)
    return GenerateRequest(request_id=name, prompt_token_ids=[1] * prompt, sampling=sampling, **fields)


def update(folder: Path, version: int, policy: InFlightPolicy = InFlightPolicy.KEEP_AND_CONTINUE) -> WeightsUpdate:
    return WeightsUpdate(version=version, path=str(write_version(folder)), in_flight=policy, drain_seconds=5)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a status is polled
            await asyncio.sleep(0.002)


async def test_generates_and_counts() -> None:
    async with started(FakeCore()) as engine:
        results = await asyncio.gather(*(engine.generate(ask(4, str(i))) for i in range(8)))
        assert all(result.token_ids == [3, 4, 5, 6] for result in results)
        assert all(result.versions == [VersionSpan(version=0, start=0, end=4)] for result in results)
        status = engine.status()
        assert (status.phase, status.requests, status.weight_version) == (EnginePhase.READY, 8, 0)
        assert 0.008 <= status.busy_seconds <= status.uptime_seconds


async def test_running_requests_go_on_over_an_update_and_say_so(tmp_path: Path) -> None:
    async with started(FakeCore()) as engine:
        running = asyncio.create_task(engine.generate(ask(100)))
        await until(lambda: engine.status().running > 0)
        await asyncio.sleep(0.02)
        loaded = await engine.load_weights(update(tmp_path, 5))
        assert (loaded.version, engine.status().weight_version) == (5, 5)
        result = await running
        assert [span.version for span in result.versions] == [0, 5]
        assert result.versions[0].end == result.versions[1].start
        assert (len(result.token_ids), result.versions[1].end) == (100, 100)
        cut = result.versions[0].end
        assert result.logprobs == [fake_logprob(0)] * cut + [fake_logprob(5)] * (100 - cut)


async def test_abort_and_resume_gives_back_what_there_is(tmp_path: Path) -> None:
    async with started(FakeCore()) as engine:
        running = asyncio.create_task(engine.generate(ask(1000)))
        await until(lambda: engine.status().running > 0)
        await asyncio.sleep(0.02)
        await engine.load_weights(update(tmp_path, 1, InFlightPolicy.ABORT_AND_RESUME))
        result = await running
        assert result.finish_reason is FinishReason.ABORT
        assert 0 < len(result.token_ids) == len(result.logprobs) < 1000
        assert {span.version for span in result.versions} == {0}


async def test_drain_lets_running_requests_end_and_holds_new_ones_back(tmp_path: Path) -> None:
    async with started(FakeCore()) as engine:
        running = asyncio.create_task(engine.generate(ask(30)))
        await until(lambda: engine.status().running > 0)
        loading = asyncio.create_task(engine.load_weights(update(tmp_path, 1, InFlightPolicy.DRAIN)))
        await until(lambda: engine.phase is EnginePhase.UPDATING)
        late = asyncio.create_task(engine.generate(ask(3, "late")))
        await loading
        assert ((await running).finish_reason, (await running).versions[-1].version) == (FinishReason.LENGTH, 0)
        assert (await late).versions == [VersionSpan(version=1, start=0, end=3)]


async def test_abort_by_name() -> None:
    async with started(FakeCore()) as engine:
        tasks = {name: asyncio.create_task(engine.generate(ask(200, name))) for name in ("a", "b")}
        await until(lambda: engine.status().running == 2)
        assert await engine.abort(["a", "unknown"]) == 1
        assert (await tasks["a"]).finish_reason is FinishReason.ABORT
        assert (await tasks["b"]).finish_reason is FinishReason.LENGTH


async def test_refuses_older_weights_than_asked_for(tmp_path: Path) -> None:
    async with started(FakeCore()) as engine:
        with pytest.raises(ProblemError, match="stale-weights"):
            await engine.generate(ask(1, min_version=2))
        await engine.load_weights(update(tmp_path, 2))
        assert (await engine.generate(ask(1, min_version=2))).versions[0].version == 2


async def test_one_bad_prompt_hurts_nobody_else() -> None:
    async with started(FakeCore()) as engine:
        good = asyncio.create_task(engine.generate(ask(20)))
        with pytest.raises(ProblemError, match="more than 1000") as refused:
            await engine.generate(ask(1, prompt=1001))
        assert refused.value.status == 422
        assert len((await good).token_ids) == 20


async def test_a_caller_that_hangs_up_frees_the_core() -> None:
    core = FakeCore()
    async with started(core) as engine:
        running = asyncio.create_task(engine.generate(ask(100_000)))
        await until(lambda: engine.status().running > 0)
        running.cancel()
        await until(lambda: not core.calls)
        assert engine.phase is EnginePhase.READY


async def test_a_lost_core_fails_everyone_and_is_told(tmp_path: Path) -> None:
    core = FakeCore()
    failures: list[BaseException] = []
    async with started(core, failures) as engine:
        running = asyncio.create_task(engine.generate(ask(100_000)))
        await until(lambda: engine.status().running > 0)
        core.fail_step = True
        with pytest.raises(ProblemError, match="kernel fault") as lost:
            await running
        assert (lost.value.name, lost.value.status) == ("engine-dead", 503)
        assert (engine.alive, engine.phase, len(failures)) == (False, EnginePhase.FAILED, 1)
        assert await engine.abort() == 0
        with pytest.raises(ProblemError, match="engine-dead"):
            await engine.generate(ask(1))
        with pytest.raises(ProblemError, match="engine-dead"):
            await engine.load_weights(update(tmp_path, 1))


@pytest.mark.parametrize("fault", ["fail_load", "lie_version", "stale_cache"])
async def test_without_weights_that_work_the_core_is_lost(tmp_path: Path, fault: str) -> None:
    core = FakeCore()
    failures: list[BaseException] = []
    async with started(core, failures) as engine:
        running = asyncio.create_task(engine.generate(ask(100_000)))
        await until(lambda: engine.status().running > 0)
        await asyncio.sleep(0.02)
        setattr(core, fault, True)
        with pytest.raises(ProblemError, match="weights-failed"):
            await engine.load_weights(update(tmp_path, 1))
        assert engine.phase is EnginePhase.FAILED
        assert len(failures) == 1
        with pytest.raises(ProblemError, match="engine-dead"):
            await engine.generate(ask(1))
        # What was sampled before is not lost: another engine goes on from there.
        assert (await running).finish_reason is FinishReason.ABORT
        assert 0 < len((await running).token_ids) == len((await running).logprobs)
        assert fault == "lie_version" or {span.version for span in (await running).versions} == {0}


async def test_refused_weights_leave_the_engine_as_it_was_and_its_calls_unhurt(tmp_path: Path) -> None:
    core = FakeCore(bad_versions=frozenset({2}))
    failures: list[BaseException] = []
    async with started(core, failures) as engine:
        await engine.load_weights(update(tmp_path / "1", 1))
        running = asyncio.create_task(engine.generate(ask(100)))
        await until(lambda: engine.status().running > 0)
        await asyncio.sleep(0.02)
        with pytest.raises(ProblemError, match="another shape") as refused:
            await engine.load_weights(update(tmp_path / "2", 2))
        assert (refused.value.name, refused.value.status) == ("weights-refused", 422)
        assert (engine.phase, engine.status().weight_version, failures) == (EnginePhase.READY, 1, [])
        weights = engine.status().weights
        assert weights is not None
        assert weights.version == 1
        result = await running
        assert result.token_ids == list(range(3, 103))
        assert result.logprobs == [fake_logprob(1)] * 100
        assert result.versions == [VersionSpan(version=1, start=0, end=100)]
        await engine.load_weights(update(tmp_path / "3", 3))
        assert (await engine.generate(ask(1))).versions[0].version == 3


async def test_weights_must_give_the_log_probs_that_were_published(tmp_path: Path) -> None:
    def published(folder: Path, version: int, value: float) -> WeightsUpdate:
        prompt = FixedPrompt(token_ids=[1, 2, 3], logprobs=[value, value])
        write_version(folder, prompt)
        return WeightsUpdate(version=version, path=str(folder))

    async with started(FakeCore()) as engine:
        await engine.load_weights(published(tmp_path / "1", 1, fake_logprob(1)))
        for version, off in ((2, 0.01), (3, -0.01)):
            with pytest.raises(ProblemError, match="fixed prompt differ") as refused:
                await engine.load_weights(published(tmp_path / str(version), version, fake_logprob(version) + off))
            assert refused.value.name == "weights-refused"
            assert (await engine.generate(ask(1))).versions[0].version == 1


async def test_a_folder_that_is_not_the_version_changes_nothing(tmp_path: Path) -> None:
    async with started(FakeCore()) as engine:
        folder = write_version(tmp_path / "v1")
        checksum = write_manifest(folder)

        async def refused(path: Path, checksum: str, reason: str) -> None:
            with pytest.raises(ProblemError, match=reason) as error:
                await engine.load_weights(WeightsUpdate(version=1, path=str(path), checksum=checksum))
            assert error.value.name == "weights-unusable"

        await refused(tmp_path / "none", "", "no such folder")
        await refused(tmp_path, "", "holds no")
        await refused(folder, "abc", "SHA-256")
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[:-1] + b"x")
        await refused(folder, checksum, r"model\.safetensors: its SHA-256")
        (folder / "model.safetensors").write_bytes(content + b"x")
        await refused(folder, checksum, "bytes, the manifest says")
        (folder / "model.safetensors").unlink()
        await refused(folder, checksum, r"model\.safetensors: listed in the manifest but missing")
        (folder / "model.safetensors").write_bytes(content)
        (folder / "more.safetensors").write_bytes(content)
        await refused(folder, checksum, r"more\.safetensors: is not in the manifest")
        (folder / "more.safetensors").unlink()
        assert (engine.phase, engine.status().weight_version) == (EnginePhase.READY, 0)
        await engine.load_weights(WeightsUpdate(version=1, path=str(folder), checksum=checksum))
        assert engine.status().weights is not None


async def test_a_model_that_cannot_be_opened_is_one_error() -> None:
    engine = Engine("e", FakeCore(fail_open=True))
    with pytest.raises(CoreError, match="--nonsense"):
        await engine.start()
    with pytest.raises(ProblemError, match="engine-not-ready"):
        await engine.generate(ask(1))
    await engine.close()


async def test_a_stop_hands_requests_back() -> None:
    async with started(FakeCore()) as engine:
        running = asyncio.create_task(engine.generate(ask(100_000)))
        await until(lambda: engine.status().running > 0)
        await engine.drain()
        assert (await running).finish_reason is FinishReason.ABORT
        with pytest.raises(ProblemError, match="draining"):
            await engine.generate(ask(1))
