"""The reference core: plain PyTorch, small, exact; for tests and for models a laptop can hold."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from shoal.api.services.models import FinishReason, SamplingParameters
from shoal_workers.engines.core import Call, Core, CoreError, Finished, Load, PromptError
from shoal_workers.engines.probe import EXACT, ROUNDED
from shoal_workers.tokens.spans import spans_of

# More sequences in one forward pass would need memory that grows with vocabulary x length x batch.
LARGEST_BATCH = 256


@dataclass(slots=True)
class _Sequence:
    call: Call
    tokens: list[int]
    generator: torch.Generator | None
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def finished(self, reason: FinishReason) -> Finished:
        prompt = len(self.call.prompt)
        return Finished(self.call.key, self.tokens[prompt:], self.logprobs, spans_of(self.versions), reason)


class ReferenceCore(Core):
    """Recomputes every sequence at every step, so that no cache can ever be stale.

    `dtype` is float32 for exactness against a trainer. `seed` starts the generator of requests without their own.
    """

    def __init__(self, model: str, max_model_len: int, dtype: str = "float32", seed: int = 0) -> None:
        self._source = model
        self._max_model_len = max_model_len
        self._dtype = torch.float32 if dtype == "auto" else getattr(torch, dtype)
        self._seed = seed
        self._model: Any = None
        self._version = 0
        self._sequences: dict[str, _Sequence] = {}
        self._vocabulary = 0
        self._stops: frozenset[int] = frozenset()

    def open(self) -> None:
        """Load the model with transformers; raises CoreError."""
        # More threads than cores make tiny matrices a hundred times slower, and engines share a laptop's cores.
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        from transformers import AutoModelForCausalLM

        try:
            self._model = AutoModelForCausalLM.from_pretrained(self._source, dtype=self._dtype)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CoreError(f"model {self._source}: {error}") from None
        self._model.eval()
        self._model.requires_grad_(False)
        config = self._model.config
        self._vocabulary = config.vocab_size
        self._stops = frozenset(_as_list(config.eos_token_id) + _as_list(self._model.generation_config.eos_token_id))
        if self._max_model_len > config.max_position_embeddings:
            longest = config.max_position_embeddings
            raise CoreError(f"max_model_len {self._max_model_len} is above the model's {longest}")
        self._generator = torch.Generator().manual_seed(self._seed)

    def add(self, call: Call) -> None:
        """Accept a call; raises PromptError."""
        if len(call.prompt) >= self._max_model_len:
            raise PromptError(f"the prompt has {len(call.prompt)} tokens; max_model_len is {self._max_model_len}")
        if min(call.prompt) < 0 or max(call.prompt) >= self._vocabulary:
            raise PromptError(f"prompt_token_ids: outside the vocabulary of {self._vocabulary}")
        seed = call.sampling.seed
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        self._sequences[call.key] = _Sequence(call, list(call.prompt), generator)

    def abort(self, keys: Sequence[str] | None = None) -> list[Finished]:
        """End calls; gives what they have."""
        wanted = list(self._sequences) if keys is None else keys
        ended = [self._sequences.pop(key) for key in wanted if key in self._sequences]
        return [sequence.finished(FinishReason.ABORT) for sequence in ended]

    @torch.inference_mode()
    def step(self) -> list[Finished]:
        """One token for each of the oldest calls."""
        batch = list(self._sequences.values())[:LARGEST_BATCH]
        logits = self._last_logits([sequence.tokens for sequence in batch])
        logprobs = _log_distributions(logits, [sequence.call.sampling for sequence in batch])
        tokens = _sample(logprobs, batch, self._generator)
        chosen = logprobs.gather(1, tokens[:, None])[:, 0].tolist()
        finished = []
        for sequence, token, logprob in zip(batch, tokens.tolist(), chosen, strict=True):
            sequence.tokens.append(token)
            sequence.logprobs.append(logprob)
            sequence.versions.append(self._version)
            reason = self._reason_to_stop(sequence, token)
            if reason is not None:
                del self._sequences[sequence.call.key]
                finished.append(sequence.finished(reason))
        return finished

    @property
    def unfinished(self) -> bool:
        """Whether there are calls."""
        return bool(self._sequences)

    @property
    def version(self) -> int:
        """The version that the loaded weights carry."""
        return self._version

    @property
    def rounding(self) -> float:
        """By the data type."""
        return EXACT if self._dtype == torch.float32 else ROUNDED

    def load_weights(self, folder: Path, version: int) -> None:
        """Copy the tensors into the model; raises CoreError for tensors that do not fit."""
        try:
            files = sorted(folder.glob("*.safetensors"))
            tensors = {name: value for file in files for name, value in load_file(file).items()}
            result = self._model.load_state_dict(tensors, strict=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise CoreError(f"{folder}: {error}") from None
        tied = set(getattr(self._model, "_tied_weights_keys", None) or ())
        missing = [name for name in result.missing_keys if name not in tied]
        if missing or result.unexpected_keys:
            raise CoreError(f"{folder}: missing {missing[:3]}, unexpected {result.unexpected_keys[:3]}")
        self._version = version

    @torch.inference_mode()
    def score(self, tokens: Sequence[int]) -> list[float]:
        """Log-probability of each token after the first."""
        ids = torch.tensor([list(tokens)])
        logprobs = torch.log_softmax(self._model(input_ids=ids).logits[0, :-1].float(), dim=-1)
        return [float(value) for value in logprobs.gather(1, ids[0, 1:, None])[:, 0]]

    def load(self) -> Load:
        """Occupation now."""
        running = min(len(self._sequences), LARGEST_BATCH)
        return Load(running, len(self._sequences) - running, running / LARGEST_BATCH)

    def close(self) -> None:
        """Drop the model."""
        self._model = None

    def _last_logits(self, rows: list[list[int]]) -> torch.Tensor:
        """Next-token logits, [rows, vocabulary]. Padding stands behind, where causal attention cannot see it."""
        longest = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        hidden = self._model.base_model(input_ids=ids).last_hidden_state
        last = hidden[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
        logits: torch.Tensor = self._model.get_output_embeddings()(last)
        return logits.float()

    def _reason_to_stop(self, sequence: _Sequence, token: int) -> FinishReason | None:
        sampling = sequence.call.sampling
        if token in (sampling.stop_token_ids or self._stops):
            return FinishReason.STOP
        if len(sequence.logprobs) >= sampling.max_tokens or len(sequence.tokens) >= self._max_model_len:
            return FinishReason.LENGTH
        return None


def _log_distributions(logits: torch.Tensor, sampling: Sequence[SamplingParameters]) -> torch.Tensor:
    """Log-probs [rows, vocabulary] that each row's token is drawn with, -inf outside its nucleus.

    A greedy row (temperature 0) has those of the logits as they are: its token is the likeliest whatever they are.
    """
    temperatures = torch.tensor([1.0 if each.temperature == 0 else each.temperature for each in sampling])
    scaled = logits / temperatures.clamp_min(1e-6)[:, None]
    for row, each in enumerate(sampling):
        if each.top_p < 1 and each.temperature > 0:
            scaled[row] = _nucleus(scaled[row], each.top_p)
    return torch.log_softmax(scaled, dim=-1)


def _nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """The logits of the smallest set of tokens whose probability reaches top_p, -inf elsewhere; the likeliest is always
    in it.
    """
    values, order = torch.softmax(logits, dim=-1).sort(descending=True)
    beyond = values.cumsum(0) - values >= top_p
    return logits.index_fill(0, order[beyond], float("-inf"))


def _sample(logprobs: torch.Tensor, batch: Sequence[_Sequence], shared: torch.Generator) -> torch.Tensor:
    """A token per row. Rows without a seed of their own are drawn together, from the shared generator."""
    probabilities = logprobs.exp()
    tokens = torch.multinomial(probabilities, 1, generator=shared)[:, 0]
    for row, sequence in enumerate(batch):
        if sequence.generator is not None:
            tokens[row] = torch.multinomial(probabilities[row], 1, generator=sequence.generator)[0]
    greedy = torch.tensor([sequence.call.sampling.temperature == 0 for sequence in batch])
    return torch.where(greedy, logprobs.argmax(dim=-1), tokens)


def _as_list(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)
