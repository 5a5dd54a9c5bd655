"""Model calls and weights: between agents and the gateway, and between the gateway and its engines.

Instants are Unix seconds, durations are seconds, log-probabilities are natural logarithms.
"""

from enum import StrEnum
from typing import Any

from pydantic import Field

from shoal.api.services.common import Finding, Message, Report, VersionSpan

__all__ = [
    "EnginePhase",
    "EngineReport",
    "EngineStatus",
    "FinishReason",
    "FixedPrompt",
    "GatewayEngine",
    "GatewayStatus",
    "GenerateRequest",
    "GenerateResult",
    "InFlightPolicy",
    "ParseRequest",
    "ParsedAnswer",
    "ParsedCall",
    "SamplingParameters",
    "SessionRecord",
    "SessionSegment",
    "SessionSettings",
    "VersionSpan",
    "WeightFile",
    "WeightsLoaded",
    "WeightsManifest",
    "WeightsState",
    "WeightsTarget",
    "WeightsUpdate",
]


class SamplingParameters(Message):
    """How tokens are drawn. Temperature 0 means greedy."""

    max_tokens: int = Field(16, ge=1)
    temperature: float = Field(1.0, ge=0.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None


class GenerateRequest(Message):
    """Tokens in. `session` keeps the calls of one episode together; `min_version` refuses older weights, and `run` the
    weights of another run ("" takes any).
    """

    request_id: str = Field(min_length=1, max_length=255)
    session: str = Field("", max_length=255)
    prompt_token_ids: list[int] = Field(min_length=1)
    sampling: SamplingParameters = Field(default_factory=SamplingParameters)
    min_version: int | None = Field(None, ge=0)
    run: str = Field("", max_length=255)


class FinishReason(StrEnum):
    """Why generation ended: a stop token, the token limit, or an abort that kept what was there."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


class GenerateResult(Report):
    """Tokens out.

    `logprobs[i]` is the log-probability of `token_ids[i]` under the distribution that it was drawn from: the softmax of
    the sampling weights' logits over the temperature, cut to `top_p` and normalised again; at temperature 0 (greedy)
    the softmax of the logits as they are. `versions` cover the output tokens without gaps.
    """

    token_ids: list[int]
    logprobs: list[float]
    versions: list[VersionSpan]
    finish_reason: FinishReason
    engine: str = ""


class ParseRequest(Message):
    """Gateway to engine: find tool calls and reasoning in an answer of this conversation with these tools.

    `messages` and `tools` are OpenAI's; `variables` are the chat template's.
    """

    token_ids: list[int]
    prompt_token_ids: list[int] = Field(default_factory=list)
    messages: list[dict[str, Any]] = Field(default_factory=list)
    tools: list[dict[str, Any]] = Field(default_factory=list)
    variables: dict[str, Any] = Field(default_factory=dict)


class ParsedCall(Report):
    """A tool call; `arguments` is JSON as the policy wrote it."""

    id: str
    name: str
    arguments: str


class ParsedAnswer(Report):
    """What an answer says; `content` is None where it is tool calls alone."""

    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ParsedCall] = Field(default_factory=list)


class AbortRequest(Message):
    """Abort these requests, or all; their callers get what was generated so far."""

    request_ids: list[str] | None = None


class InFlightPolicy(StrEnum):
    """What happens to running requests while weights are loaded."""

    KEEP_AND_CONTINUE = "KeepAndContinue"
    ABORT_AND_RESUME = "AbortAndResume"
    DRAIN = "Drain"


class FixedPrompt(Report):
    """What the trainer's own model says of a fixed prompt, so that an engine can prove that it serves these weights.

    `logprobs[i]` is the log-probability, at temperature 1, of `token_ids[i + 1]` given those before it; `dtype` is what
    the trainer computes in.
    """

    token_ids: list[int] = Field(min_length=2)
    logprobs: list[float]
    dtype: str = "float32"


class WeightFile(Report):
    """One file of a version."""

    sha256: str
    bytes: int = Field(ge=0)


class WeightsManifest(Report):
    """`manifest.json` of a version: every other file of its folder, and what proves that an engine serves it."""

    version: int = Field(0, ge=0)
    step: int = Field(0, ge=0)
    files: dict[str, WeightFile] = Field(default_factory=dict)
    fixed_prompt: FixedPrompt | None = None


class WeightsTarget(Message):
    """A published weight version: a folder of safetensors; its manifest has SHA-256 `checksum` ("" is not checked).

    Versions count the steps of one `run` and compare with no other's.
    """

    version: int = Field(ge=0)
    path: str = Field(min_length=1)
    checksum: str = ""
    run: str = Field("", max_length=255)


class WeightsUpdate(WeightsTarget):
    """Gateway to engine: load these weights in place."""

    in_flight: InFlightPolicy = InFlightPolicy.KEEP_AND_CONTINUE
    drain_seconds: float = Field(30.0, ge=0)


class WeightsLoaded(Report):
    """The engine serves `version` now; `probe_error`: difference of the probe's log-probs, None where not measured."""

    version: int
    seconds: float
    probe_error: float | None = None


class EnginePhase(StrEnum):
    """Life of one engine."""

    STARTING = "Starting"
    READY = "Ready"
    UPDATING = "Updating"
    DRAINING = "Draining"
    FAILED = "Failed"


class EngineStatus(Report):
    """An engine's own view. `busy_seconds`: time with a request executing; `kv_use` is a fraction."""

    name: str = ""
    phase: EnginePhase = EnginePhase.STARTING
    weight_version: int = 0
    weights: WeightsTarget | None = Field(None, description="What was loaded last; None: the original weights.")
    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0
    busy_seconds: float = 0.0
    uptime_seconds: float = 0.0
    generated_tokens: int = 0
    requests: int = 0
    parsers: list[str] = Field(default_factory=list, description="What it finds in answers: tools, reasoning.")
    detail: str = ""
    findings: list[Finding] = Field(default_factory=list)


class EngineReport(Report):
    """An engine's registration with its gateway, every second and on change."""

    name: str
    uid: str
    url: str
    status: EngineStatus


class WeightsState(Report):
    """The newest target, and each engine's version."""

    target: WeightsTarget | None = None
    engines: dict[str, int] = Field(default_factory=dict)
    loading: list[int] = Field(default_factory=list, description="Versions that engines are loading now.")


class GatewayEngine(Report):
    """One engine as the gateway sees it; `routed`: requests go to it; `age`: seconds since its last report."""

    name: str
    url: str
    phase: EnginePhase
    weight_version: int
    running: int
    waiting: int
    kv_use: float
    routed: bool
    age: float
    busy_seconds: float = 0.0
    uptime_seconds: float = 0.0
    detail: str = ""


class GatewayStatus(Report):
    """The fleet as its gateway sees it. Versions are -1 while no engine is known. Latencies are of the last window."""

    run: str = Field("", description="The run whose weights the fleet has.")
    target_version: int = 0
    min_version: int = -1
    max_version: int = -1
    engines: list[GatewayEngine] = Field(default_factory=list)
    queued: int = 0
    running: int = 0
    requests: int = 0
    retries: int = 0
    errors: int = 0
    refused: int = 0
    latency_p50: float = 0.0
    latency_p99: float = 0.0
    updates: int = 0
    update_seconds: float = 0.0
    update_error: str = ""
    findings: list[Finding] = Field(default_factory=list)
    served_while_updating: int = Field(0, description="Requests answered by one engine while another loaded weights.")
    uptime_seconds: float = 0.0


class SessionSettings(Message):
    """How a session's tokens are drawn, whatever its caller asks for; `sampling.max_tokens` is the most of one call."""

    sampling: SamplingParameters = Field(default_factory=SamplingParameters)
    min_version: int | None = Field(None, ge=0)
    run: str = Field("", max_length=255)


class SessionSegment(Report):
    """A stretch of tokens that one prompt led to; `loss_mask` is 1 where the policy chose the token.

    `parent` and `shared` place it in the session's tree, as in `shoal.api.services.tree.Segment`.
    """

    token_ids: list[int]
    loss_mask: list[int]
    logprobs: list[float]
    versions: list[VersionSpan]
    parent: int | None = Field(None, ge=0)
    shared: int = Field(0, ge=0)


class SessionRecord(Report):
    """The model calls of one episode, joined where one prompt continues the last.

    `opened`: it was opened with settings, and nothing of it was lost since.
    """

    id: str
    opened: bool = False
    segments: list[SessionSegment] = Field(default_factory=list)
    calls: int = 0
    messages: list[dict[str, Any]] = Field(default_factory=list)
