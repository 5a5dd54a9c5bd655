"""Real vLLM, as a pod runs it, against PyTorch on the same weights.

One process serves all tests here: its start takes most of their time.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import signal
import time
import urllib.error
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shoal.api.services.models import EnginePhase, FinishReason, GenerateResult
from tests.engines.processes import EngineProcess, start
from tests.engines.scoring import trainer_logprobs
from tests.models import IM_END, VOCABULARY, write_model

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.timeout(240),
]

TOLERANCE = 1e-4
VERSIONS = 3
# The last one is what a user may not have: it must change nothing.
ARGS = ["--kv-cache-memory-bytes=64M", "--max-num-seqs=64", "--logprobs-mode=raw_logprobs"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Version 0, 1, 2: the same shapes, other weights. Tied, the harder case; the other is in test_families."""
    root = tmp_path_factory.mktemp("models")
    return [write_model(root / str(version), seed=version, tied=True) for version in range(VERSIONS)]


@pytest.fixture(scope="module")
def misconfigured(models: list[Path]) -> Iterator[EngineProcess]:
    """An engine whose arguments vLLM does not know."""
    process = start({"model": str(models[0]), "args": ["--no-such-argument=1"]})
    yield process
    process.process.kill()
    process.process.wait()


@pytest.fixture(scope="module")
def engine(models: list[Path], misconfigured: EngineProcess) -> Iterator[EngineProcess]:
    """The engine; `misconfigured` starts beside it, to save its time."""
    output = models[0].parent / "engine.log"
    process = start({"model": str(models[0]), "max_model_len": 400, "dtype": "float32", "args": ARGS}, output)
    try:
        process.wait_ready(180)
        yield process
    finally:
        process.process.kill()
        process.process.wait()


@pytest.fixture(scope="module")
def references(models: list[Path]) -> list[Any]:
    """A PyTorch model per version."""
    from shoal_workers.engines.reference import ReferenceCore

    cores = [ReferenceCore(str(folder), 400) for folder in models]
    for core in cores:
        core.open()
    return cores


def load(engine: EngineProcess, models: list[Path], version: int, number: int, policy: str = "KeepAndContinue") -> None:
    """Load the weights of `version` as version number `number`."""
    loaded = engine.post("/weights", {"version": number, "path": str(models[version]), "in_flight": policy})
    assert loaded["version"] == number
    assert loaded["probe_error"] < TOLERANCE


def check(result: GenerateResult, prompt: list[int], references: list[Any], weights: dict[int, int]) -> None:
    """Every log-probability is the one PyTorch computes under the version that its span names."""
    assert len(result.token_ids) == len(result.logprobs) > 0
    assert (result.versions[0].start, result.versions[-1].end) == (0, len(result.token_ids))
    for span in result.versions:
        scores = references[weights[span.version]].score([*prompt, *result.token_ids])[len(prompt) - 1 :]
        pairs = zip(result.logprobs[span.start : span.end], scores[span.start : span.end], strict=True)
        assert max(abs(one - other) for one, other in pairs) < TOLERANCE


def prompts(count: int, length: int) -> list[list[int]]:
    return [[5 + (7 * row + 3 * column) % (len(VOCABULARY) - 5) for column in range(length)] for row in range(count)]


def test_logprobs_are_pytorchs_before_and_after_updates(
    engine: EngineProcess, models: list[Path], references: list[Any]
) -> None:
    """Prompts of several cache blocks are asked again after each update: a stale cache would be off by whole units."""
    asked = [*prompts(12, 5), *prompts(4, 100)]
    # Weights 0 -> 1 -> 2 -> 0, as versions 0..3.
    for number, version in enumerate((0, 1, 2, 0)):
        if number:
            load(engine, models, version, number)
        with ThreadPoolExecutor(16) as pool:
            results = list(pool.map(lambda prompt: engine.generate(prompt, 24, stop_token_ids=[0]), asked))
        for prompt, result in zip(asked, results, strict=True):
            assert {span.version for span in result.versions} == {number}
            check(result, prompt, references, {number: version})
    load(engine, models, 0, 10)


def test_requests_in_flight_over_updates(engine: EngineProcess, models: list[Path], references: list[Any]) -> None:
    """Two updates under way. How far calls have come by then is the machine's affair, so it may take several tries."""
    asked = prompts(6, 40)
    weights = {10: 0}
    most = 0
    for first in range(11, 41, 3):
        weights |= {first: 1, first + 1: 2, first + 2: 0}
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(engine.generate, prompt, 300, stop_token_ids=[IM_END]) for prompt in asked]
            while not engine.status().running and not all(call.done() for call in calls):
                time.sleep(0.005)
            load(engine, models, 1, first)
            load(engine, models, 2, first + 1)
            results = [call.result() for call in calls]
        load(engine, models, 0, first + 2)
        for prompt, result in zip(asked, results, strict=True):
            check(result, prompt, references, weights)
        most = max(most, *(len(result.versions) for result in results))
        if most == 3:
            break
    assert most == 3
    load(engine, models, 0, 50)


def test_abort_and_resume_gives_partial_answers(
    engine: EngineProcess, models: list[Path], references: list[Any]
) -> None:
    (prompt,) = prompts(1, 8)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(engine.generate, prompt, 350, stop_token_ids=[0])
        while not engine.status().running and not call.done():
            time.sleep(0.005)
        load(engine, models, 0, 51, "AbortAndResume")
        result = call.result()
    if result.finish_reason is FinishReason.ABORT:
        assert len(result.token_ids) < 350
    check(result, prompt, references, {50: 0, 51: 0})


def test_logprobs_are_the_trainers_at_the_temperature(engine: EngineProcess, models: list[Path]) -> None:
    """Calls of different temperatures in one batch, also greedy ones, whose log-probs are those of temperature 1."""
    asked = list(itertools.product(prompts(3, 9), (0.5, 0.0, 1.0, 1.7)))
    with ThreadPoolExecutor(len(asked)) as pool:
        results = list(
            pool.map(lambda each: engine.generate(each[0], 16, temperature=each[1], stop_token_ids=[0]), asked)
        )
    for (prompt, temperature), result in zip(asked, results, strict=True):
        expected = trainer_logprobs(models[0], prompt, result.token_ids, temperature or 1.0)
        assert result.logprobs == pytest.approx(expected, abs=TOLERANCE), (prompt, temperature)


def test_logprobs_below_top_p_1_are_of_the_nucleus(engine: EngineProcess, models: list[Path]) -> None:
    (prompt,) = prompts(1, 7)
    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(engine.generate, prompt, 1, temperature=0.7, top_p=0.6) for _ in range(200)]
        results = [call.result() for call in calls]
    said = {result.token_ids[0]: result.logprobs[0] for result in results}
    whole = {token: trainer_logprobs(models[0], prompt, [token], 0.7)[0] for token in said}
    # All of the nucleus are likelier by the same factor: one over the nucleus' probability, which is at least 0.6.
    gains = [said[token] - whole[token] for token in said]
    assert max(gains) - min(gains) < TOLERANCE
    assert 0.01 < min(gains) <= -math.log(0.6) + TOLERANCE
    only = engine.generate(prompt, 4, temperature=0.7, top_p=1e-6, stop_token_ids=[0])
    assert only.logprobs == pytest.approx([0.0] * len(only.token_ids), abs=1e-6)


def test_sampling_parameters_mean_what_they_say(engine: EngineProcess) -> None:
    candidates = (
        (prompt, engine.generate(prompt, 8, temperature=0.0, stop_token_ids=[0])) for prompt in prompts(20, 6)
    )
    prompt, greedy = next(pair for pair in candidates if len(pair[1].token_ids) == 8)
    assert engine.generate(prompt, 8, temperature=1.0, top_p=1e-6, stop_token_ids=[0]).token_ids == greedy.token_ids
    seeded = [engine.generate(prompt, 8, seed=3, stop_token_ids=[0]).token_ids for _ in range(2)]
    assert seeded[0] == seeded[1]
    free = {tuple(engine.generate(prompt, 8, stop_token_ids=[0]).token_ids) for _ in range(6)}
    assert len(free) > 1
    # The stop token is part of the answer: the policy chose it, and is trained on it.
    stopped = engine.generate(prompt, 8, temperature=0.0, stop_token_ids=[greedy.token_ids[2]])
    assert stopped.token_ids == greedy.token_ids[: greedy.token_ids.index(greedy.token_ids[2]) + 1]
    assert stopped.finish_reason is FinishReason.STOP


def test_bad_calls_are_refused_by_name(engine: EngineProcess, tmp_path: Path) -> None:
    for path, body, status, name in (
        ("/generate", {"request_id": "x", "prompt_token_ids": [1] * 401}, 422, "invalid-prompt"),
        ("/generate", {"request_id": "x", "prompt_token_ids": [10_000]}, 422, "invalid-prompt"),
        ("/generate", {"request_id": "x"}, 422, "invalid-request"),
        ("/generate", {"request_id": "x", "prompt_token_ids": [1], "min_version": 999}, 409, "stale-weights"),
        ("/weights", {"version": 99, "path": str(tmp_path)}, 422, "weights-unusable"),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            engine.post(path, body)
        with refused.value as answer:
            assert (answer.code, json.loads(answer.read())["type"].rsplit(":", 1)[1]) == (status, name)
    assert engine.status().phase is EnginePhase.READY


def test_wrong_arguments_end_the_process_with_one_line(engine: EngineProcess, misconfigured: EngineProcess) -> None:
    assert misconfigured.process.wait(60) == 2
    assert "--no-such-argument" in misconfigured.words()
    assert "\n" not in misconfigured.words().strip()


def test_stops_when_told_and_answers_first(engine: EngineProcess) -> None:
    status = engine.status()
    assert 0 < status.busy_seconds < status.uptime_seconds
    assert status.kv_use < 1
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(engine.generate, prompts(1, 4)[0], 390, stop_token_ids=[0])
        while not engine.status().running and not call.done():
            time.sleep(0.005)
        begin = time.monotonic()
        engine.process.send_signal(signal.SIGTERM)
        result = call.result()
        assert engine.process.wait(60) == 0
        assert time.monotonic() - begin < 60
    assert 0 < len(result.token_ids) <= 390
