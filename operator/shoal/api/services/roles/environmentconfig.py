"""What `environment.config` may hold, by protocol. An own protocol's configuration is its adapter's affair."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel


class Settings(BaseModel):
    """Base of every adapter's settings: camelCase as in manifests, unknown fields are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, protected_namespaces=()
    )


class InvalidActionPolicy(Settings):
    """How a malformed action counts, where the environment's owner wants to say so."""

    reward: float | None = Field(None, description="The reward of such a turn; unset: none.")
    terminated: bool = Field(False, description="Whether it ends the episode.")
    text: str | None = Field(None, description="Shown instead of repeating the last observation.")


class ActionSettings(Settings):
    """How text becomes an action."""

    actions: dict[str, Any] = Field(default_factory=dict, description="Names that a model writes, and what they do.")
    action_pattern: str | None = Field(
        None, description="A regular expression for the part of the text that counts; its last match and first group."
    )
    action_pick: Literal["last", "first", "only", "whole"] = Field(
        "last", description="Which name in the text is meant; whole: the text must be one."
    )
    invalid_action: InvalidActionPolicy | None = Field(None, description="How a malformed action counts.")


class ObservationSettings(Settings):
    """How an observation is shown.

    Names are given to the numbers in it: `names` for a vector (or, with `shape`, for the coordinates of a flat index);
    `labels` turns a named number into a word; `attributes` adds fields read from the environment object. Without a
    template, the fields or the value are written out. A picture, or any part of more than 1024 numbers, is no text:
    without a template or `images` it is refused. Templates may use the names, the environment's own keys,
    `observation`, `turn`, `task` and `info`.
    """

    template: str | None = Field(None, description="The text of every observation.")
    first: str | None = Field(None, description="The text of a reset's observation; unset: as `template`.")
    shape: list[int] = Field(default_factory=list, description="Of the array whose flat index the observation is.")
    names: list[str] = Field(default_factory=list, description="Names of the observation's numbers.")
    labels: dict[str, list[str]] = Field(default_factory=dict, description="Words for a named number's values.")
    attributes: dict[str, str] = Field(
        default_factory=dict, description="Field -> path of an attribute or method of the environment object."
    )
    images: bool = Field(
        False, description="Send pictures as PNG in the observation's `images`, for harnesses that read them."
    )
    precision: int = Field(3, ge=0, le=12, description="Decimals of numbers, where no template formats them.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.shape and len(self.names) != len(self.shape):
            raise ValueError(f"names has {len(self.names)} entries, shape has {len(self.shape)}")
        return self


class RewardSettings(Settings):
    """What is made of the environment's reward r: scale * r + step."""

    scale: float = Field(1.0, description="Factor of the reward.")
    step: float = Field(0.0, description="Added at every step.")


class GymnasiumSettings(ActionSettings):
    """`environment.config` of protocol Gymnasium."""

    id: str | None = Field(None, description="Environment id; default: the entry point.")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="Arguments of the environment's constructor.")
    max_episode_steps: int | None = Field(None, ge=1, description="Steps after which an episode is truncated.")
    observation: ObservationSettings = Field(default_factory=ObservationSettings)
    reward: RewardSettings = Field(default_factory=RewardSettings)


class OpenEnvObservation(Settings):
    """How an observation is shown: a template over its fields; default: its `text`, or all of it as JSON."""

    template: str | None = Field(None, description="The text of every observation.")
    first: str | None = Field(None, description="The text of a reset's observation; unset: as `template`.")


class OpenEnvSettings(ActionSettings):
    """`environment.config` of protocol OpenEnv.

    With `actions`, what is sent is the action that a name stands for: a mapping, or a value for `actionField`. An
    action that is not of the form `{"text": ...}` is sent as it is. Times are seconds.
    """

    action_field: str = Field("message", description="The action's field for what a model wrote.")
    action_defaults: dict[str, Any] = Field(default_factory=dict, description="The action's other fields.")
    observation: OpenEnvObservation = Field(default_factory=OpenEnvObservation)
    kwargs: dict[str, Any] = Field(default_factory=dict, description="For module:factory.")
    action: str | None = Field(None, description="module:Class of the action, for module:factory.")
    connect_timeout: float = Field(10.0, gt=0, description="For opening a session.")
    message_timeout: float | None = Field(None, gt=0, description="None: the pool's limits of resets and steps.")


class TextSettings(Settings):
    """How the game's messages are shown."""

    kinds: list[str] = Field(
        default_factory=list,
        description="Only messages of these TextArena observation types (PROMPT, GAME_BOARD, GAME_MESSAGE, GAME_ADMIN, "
        "…); empty: all but the player's own moves.",
    )
    template: str | None = Field(
        None, description="In place of the text: over `text`, `turn`, `task` and the fields of the game's state."
    )
    first: str | None = Field(None, description="The text of a reset's observation; unset: as `template`.")


class TextArenaSettings(ActionSettings):
    """`environment.config` of protocol TextArena. `actions` maps names to what is sent to the game; empty: the text."""

    id: str | None = Field(None, description="The game's id; default: the entry point.")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="Arguments of the game's constructor.")
    observation: TextSettings = Field(default_factory=TextSettings)


CONFIGURATIONS: dict[str, type[Settings]] = {
    "Gymnasium": GymnasiumSettings,
    "OpenEnv": OpenEnvSettings,
    "TextArena": TextArenaSettings,
}
"""Built-in protocol -> the form of its `environment.config`."""


def wrong_config(protocol: str, config: dict[str, Any]) -> list[tuple[str, str]]:
    """Each wrong field of a built-in protocol's configuration: its dotted path below `config`, and what is wrong.

    An own protocol's configuration is not looked at.
    """
    model = CONFIGURATIONS.get(protocol)
    if model is None:
        return []
    try:
        model.model_validate(config)
    except ValidationError as error:
        return [(".".join(str(part) for part in each["loc"]), _words(model, each)) for each in error.errors()]
    return []


def _words(model: type[BaseModel], error: Any) -> str:
    if error["type"] != "extra_forbidden":
        return str(error["msg"])
    for part in error["loc"][:-1]:
        field = next((each for each in model.model_fields.values() if each.alias == part), None)
        inner = field.annotation if field is not None else None
        options = [inner, *getattr(inner, "__args__", ())]
        model = next((each for each in options if isinstance(each, type) and issubclass(each, BaseModel)), model)
    known = ", ".join(sorted(str(field.alias or name) for name, field in model.model_fields.items()))
    return f"is no field; there are: {known}"
