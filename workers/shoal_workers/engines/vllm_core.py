"""vLLM as a core, inside this process.

Shoal steps vLLM's engine itself instead of running its server: weights are then replaced between two steps, which needs
no pause protocol, and a call costs no serialisation. vLLM labels every token with the weight version that sampled it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from shoal.api.services.common import VersionSpan
from shoal.api.services.models import FinishReason, ParsedAnswer, ParseRequest, SamplingParameters
from shoal.api.services.roles.engine import EngineConfig
from shoal_workers.engines.core import Call, Core, CoreError, Finished, Load, PromptError
from shoal_workers.engines.grouping import start_head
from shoal_workers.engines.probe import EXACT, ROUNDED
from shoal_workers.engines.vllm_parsers import Parsers, split_flags
from shoal_workers.engines.vllm_settings import arguments, on_cpu

_SCORE = "score"
# What a quantised copy of the weights adds is not rounding, but it is meant.
QUANTIZED = 1.0


class VllmCore(Core):
    """Drives vLLM's synchronous engine. `seed` is this engine's own, so that engines do not sample the same tokens."""

    def __init__(self, config: EngineConfig, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._engine: Any = None
        self._parsers: Parsers | None = None
        self._version = 0
        self._internal: dict[str, str] = {}
        self._late: list[Finished] = []

    def open(self) -> None:
        """Import vLLM, which takes seconds, and load the model; raises CoreError."""
        if self._config.nodes > 1:
            start_head()
        flags, args = split_flags(self._config.args)
        config = self._config.model_copy(update={"args": args})
        engine_args = _parse(arguments(config, cpu=on_cpu(), seed=self._seed))
        from vllm.v1.engine.llm_engine import LLMEngine

        import shoal_workers.engines.vllm_weights  # noqa: F401 - registers the weight-transfer backend

        try:
            self._engine = LLMEngine.from_engine_args(engine_args, enable_multiprocessing=False)
        except Exception as error:
            raise CoreError(f"model {self._config.model}: {type(error).__name__}: {error}") from error
        self._engine.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": {}})
        self._engine.set_weight_version("0")
        self._parsers = Parsers(flags, self._engine)

    def add(self, call: Call) -> None:
        """Accept a call; raises PromptError."""
        self._add(call.key, call.prompt, _sampling(call.sampling))

    def abort(self, keys: Sequence[str] | None = None) -> list[Finished]:
        """End calls; gives what they have, as vLLM's own abort does for a streaming client."""
        wanted = list(self._internal) if keys is None else keys
        internal = [self._internal.pop(key) for key in wanted if key in self._internal]
        states = self._engine.output_processor.request_states
        finished = []
        for name in internal:
            state = states.get(name)
            if state is not None:
                finished.append(_finished(_partial(state)))
        self._engine.abort_request(internal, internal=True)
        return finished

    def step(self) -> list[Finished]:
        """One step of vLLM's scheduler."""
        finished, self._late = self._late, []
        if self._engine.has_unfinished_requests():
            finished += self._ended(self._engine.step())
        return finished

    def _ended(self, outputs: Sequence[Any]) -> list[Finished]:
        return [
            _finished(output)
            for output in outputs
            if output.finished and self._internal.pop(output.request_id, None) is not None
        ]

    @property
    def unfinished(self) -> bool:
        """Whether vLLM has requests."""
        return bool(self._late) or bool(self._engine.has_unfinished_requests())

    @property
    def version(self) -> int:
        """The version vLLM labels tokens with."""
        return int(self._engine.get_weight_version()) if self._engine is not None else 0

    @property
    def parsers(self) -> list[str]:
        """By the flags."""
        return self._parsers.kinds if self._parsers is not None else []

    def parse(self, request: ParseRequest) -> ParsedAnswer:
        """By vLLM's own parsers."""
        assert self._parsers is not None
        return self._parsers.parse(request)

    @property
    def rounding(self) -> float:
        """By the model's data type, and what quantisation adds."""
        model = self._engine.model_config
        if model.quantization is not None:
            return QUANTIZED
        return EXACT if str(model.dtype) == "torch.float32" else ROUNDED

    def load_weights(self, folder: Path, version: int) -> None:
        """Replace the weights; raises CoreError. Caches go first: one kept over an update gives wrong tokens."""
        engine = self._engine
        try:
            engine.reset_prefix_cache(reset_running_requests=True)
            engine.reset_encoder_cache()
            engine.collective_rpc("start_weight_update")
            engine.collective_rpc("update_weights", kwargs={"update_info": {"folder": str(folder)}})
            engine.collective_rpc("finish_weight_update")
            engine.set_weight_version(str(version))
        except Exception as error:
            raise CoreError(f"{folder}: {type(error).__name__}: {error}") from error

    def score(self, tokens: Sequence[int]) -> list[float]:
        """Prompt log-probabilities, which vLLM computes without its prefix cache; other calls go on meanwhile."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False, skip_clone=True)
        self._add(_SCORE, tokens, params)
        while self._engine.has_unfinished_requests():
            outputs = self._engine.step()
            scored = next((output for output in outputs if output.request_id == _SCORE), None)
            self._internal.pop(_SCORE if scored is not None else "", None)
            self._late += self._ended(outputs)
            if scored is not None:
                pairs = zip(scored.prompt_logprobs[1:], tokens[1:], strict=True)
                return [entry[token].logprob for entry, token in pairs]
        raise CoreError("vLLM lost the scoring request")

    def load(self) -> Load:
        """Occupation, as vLLM's scheduler sees it."""
        scheduler = self._engine.engine_core.engine_core.scheduler
        running, waiting = scheduler.get_request_counts()
        return Load(running, waiting, float(scheduler.kv_cache_manager.usage))

    def close(self) -> None:
        """Free the model and its workers."""
        if self._engine is not None:
            with suppress(Exception):
                self._engine.engine_core.shutdown()
            self._engine = None

    def _add(self, key: str, prompt: Sequence[int], params: Any) -> None:
        from vllm.exceptions import VLLMClientError

        try:
            tokens = {"type": "token", "prompt_token_ids": list(prompt)}
            self._internal[key] = self._engine.add_request(key, tokens, params)
        except (VLLMClientError, ValueError, TypeError) as error:
            raise PromptError(str(error)) from None


def _sampling(sampling: SamplingParameters) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=bool(sampling.stop_token_ids),
        seed=sampling.seed,
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )


def _partial(state: Any) -> Any:
    """What a request has so far, made by the method vLLM's own abort uses."""
    from vllm.v1.engine import FinishReason as VllmReason

    return state.make_request_output(
        new_token_ids=[],
        pooling_output=None,
        finish_reason=VllmReason.ABORT,
        stop_reason=None,
        kv_transfer_params=None,
        ec_transfer_params=None,
    )


def _finished(output: Any) -> Finished:
    completion = output.outputs[0]
    tokens = list(completion.token_ids)
    flat = completion.logprobs
    logprobs = [flat.logprobs[start] for start in flat.start_indices] if flat is not None else []
    spans = [
        VersionSpan.model_construct(version=int(span.version), start=span.start, end=span.end)
        for span in completion.weight_versions or ()
    ]
    return Finished(output.request_id, tokens, logprobs[: len(tokens)], spans, FinishReason(completion.finish_reason))


def _parse(argv: list[str]) -> Any:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise CoreError(f"args: {message}")

    parser: Any = Parser
    return EngineArgs.from_cli_args(EngineArgs.add_cli_args(parser()).parse_args(argv))
