"""The agents of a job: who plays episodes, and how."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from shoal.api.base import ApiModel
from shoal.api.markers import Cel, StrategyGroup
from shoal.api.strategies import known_name
from shoal.api.v1alpha1.common import Decimal, FreeForm, PodTemplate, Strategy, formerly


class HarnessType(StrEnum):
    """How an agent talks to the model and to the environment."""

    CHAT = "Chat"
    OPENAI = "OpenAI"


class InvalidActionPolicy(StrEnum):
    """What a malformed action does to the episode."""

    TERMINATE = "Terminate"
    CONTINUE = "Continue"


class Harness(ApiModel):
    """The program that turns observations into prompts and answers into actions."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("self.type != 'OpenAI' || has(self.module)", "harness OpenAI needs module (module:function)"),
    )

    type: HarnessType = HarnessType.CHAT
    module: (
        Annotated[
            str,
            Field(
                pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
                max_length=256,
                description="module:function of an agent that talks to the model through its OpenAI address.",
            ),
        ]
        | None
    ) = None
    system_prompt: Annotated[
        str, Field(max_length=65_536, description="First message of every episode; none when empty.")
    ] = ""
    invalid_action: InvalidActionPolicy = InvalidActionPolicy.TERMINATE
    config: FreeForm = Field(
        default_factory=dict,
        description="Chat: variables of the chat template. OpenAI: what the program finds in `endpoint.config`.",
    )


class Sampling(ApiModel):
    """How tokens are drawn while training."""

    cel: ClassVar[tuple[Cel, ...]] = (
        # vLLM refuses calls above 2, and below 0.01 it samples at 0.01 without a word, where importance weights would
        # be wrong. A greedy policy has no distribution that they could be taken against at all.
        Cel(
            "double(self.temperature) >= 0.01 && double(self.temperature) <= 2.0",
            "temperature must be at least 0.01 and at most 2 in training",
            field_path=".temperature",
        ),
        Cel(
            "double(self.topP) > 0.0 && double(self.topP) <= 1.0",
            "topP must be above 0 and at most 1",
            field_path=".topP",
        ),
    )

    temperature: Annotated[Decimal, Field(description="Temperature, as decimal text from 0.01 to 2.")] = "1.0"
    top_p: Annotated[
        Decimal,
        Field(
            description="Nucleus share, as decimal text; at most 1. Below 1 the engines' log-probs are those of the cut"
            " distribution, which the trainer's are not."
        ),
    ] = "1.0"
    max_tokens_per_turn: Annotated[
        int, Field(ge=1, le=1_000_000, description="Tokens that one model call may generate.")
    ] = 256


_BUDGETS = "shoal.agent.turnbudget"


class Agents(ApiModel):
    """The processes that run episodes."""

    cel: ClassVar[tuple[Cel, ...]] = (known_name("turnBudget", _BUDGETS),)

    harness: Harness = Field(default_factory=Harness)
    replicas: Annotated[int, Field(ge=0, le=10_000, description="Agent processes.")] = 1
    concurrency: Annotated[int, Field(ge=1, le=10_000, description="Episodes that one agent process runs at once.")] = (
        32
    )
    max_turns: Annotated[int, Field(ge=1, le=100_000, description="Turns after which an episode is truncated.")] = 32
    turn_budget: Annotated[
        Strategy,
        StrategyGroup(_BUDGETS),
        BeforeValidator(formerly({"Fixed": "fixed"})),
        Field(description="How many turns an episode of training may take, at most maxTurns."),
    ] = Field(default_factory=lambda: Strategy(name="fixed"))
    sampling: Sampling = Field(default_factory=Sampling)
    template: PodTemplate = Field(default_factory=PodTemplate)
