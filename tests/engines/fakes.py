"""A core without a model: every token and log-probability says which weights made it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy
from safetensors.numpy import save_file

from shoal.api.services.models import FinishReason, FixedPrompt, WeightFile, WeightsManifest
from shoal_workers.engines.core import Call, Core, CoreError, Finished, Load, PromptError
from shoal_workers.engines.probe import EXACT
from shoal_workers.engines.weights import MANIFEST
from shoal_workers.tokens.spans import spans_of


def fake_logprob(version: int) -> float:
    """The log-probability of every token of a version."""
    return -0.1 * (version + 1)


@dataclass
class FakeCore(Core):
    """Token i of an answer is the number of tokens before it, so continuity over engines can be seen.

    `step_seconds` is the time of a step, `load_seconds` of an update. `fail_step`, `fail_load`, `lie_version` and
    `stale_cache` are faults to inject; loading one of `bad_versions` fails and leaves broken weights.
    """

    step_seconds: float = 0.002
    load_seconds: float = 0.0
    fail_step: bool = False
    fail_load: bool = False
    fail_open: bool = False
    lie_version: bool = False
    stale_cache: bool = False
    bad_versions: frozenset[int] = frozenset()
    calls: dict[str, tuple[Call, list[int], list[int]]] = field(default_factory=dict)
    loaded: int = 0

    def open(self) -> None:
        if self.fail_open:
            raise CoreError("args: no such argument --nonsense")

    def add(self, call: Call) -> None:
        if len(call.prompt) > 1000:
            raise PromptError("the prompt has more than 1000 tokens")
        self.calls[call.key] = (call, [], [])

    def abort(self, keys: Sequence[str] | None = None) -> list[Finished]:
        wanted = list(self.calls) if keys is None else keys
        return [self._finish(key, FinishReason.ABORT) for key in wanted if key in self.calls]

    def step(self) -> list[Finished]:
        if self.fail_step:
            raise RuntimeError("kernel fault")
        time.sleep(self.step_seconds)
        finished = []
        for key, (call, tokens, versions) in list(self.calls.items()):
            tokens.append(len(call.prompt) + len(tokens))
            versions.append(self.loaded + (7 if self.lie_version else 0))
            if len(tokens) >= call.sampling.max_tokens:
                finished.append(self._finish(key, FinishReason.LENGTH))
        return finished

    @property
    def unfinished(self) -> bool:
        return bool(self.calls)

    @property
    def version(self) -> int:
        return self.loaded

    @property
    def rounding(self) -> float:
        return EXACT

    def load_weights(self, folder: Path, version: int) -> None:
        if self.fail_load or version in self.bad_versions:
            self.loaded = -1
            raise CoreError("tensor of another shape")
        time.sleep(self.load_seconds)
        self.loaded = version

    def score(self, tokens: Sequence[int]) -> list[float]:
        return [fake_logprob(self.loaded) - (3.0 if self.stale_cache else 0.0)] * (len(tokens) - 1)

    def load(self) -> Load:
        return Load(len(self.calls), 0, 0.0)

    def close(self) -> None:
        self.calls.clear()

    def _finish(self, key: str, reason: FinishReason) -> Finished:
        _, tokens, versions = self.calls.pop(key)
        return Finished(key, tokens, [fake_logprob(version) for version in versions], spans_of(versions), reason)


def write_version(folder: Path, prompt: FixedPrompt | None = None, value: float = 0.0) -> Path:
    """Published weights: a tiny safetensors file and its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"w": numpy.full((2, 2), value, numpy.float32)}, folder / "model.safetensors")
    write_manifest(folder, prompt)
    return folder


def write_manifest(folder: Path, prompt: FixedPrompt | None = None) -> str:
    """A manifest of the folder's other files; gives its checksum."""
    files = {}
    for file in sorted(folder.iterdir()):
        if file.name != MANIFEST:
            content = file.read_bytes()
            files[file.name] = WeightFile(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    manifest = WeightsManifest(version=0, files=files, fixed_prompt=prompt).model_dump_json().encode()
    (folder / MANIFEST).write_bytes(manifest)
    return hashlib.sha256(manifest).hexdigest()
