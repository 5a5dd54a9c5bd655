"""What every message between Shoal's services is built from."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Message(BaseModel):
    """A request: snake_case on the wire, immutable, and a field it does not know is an error with that field's name."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Report(Message):
    """An answer or a status: fields of a newer peer are ignored, so services can be updated one at a time."""

    model_config = ConfigDict(extra="ignore")


class Problem(BaseModel):
    """An error document (RFC 9457); extension fields, where a problem has some, are kept in `model_extra`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = "about:blank"
    title: str = ""
    status: int = 500
    detail: str = ""


class Finding(Report):
    """Something that is wrong now, as a service tells it in its status; it goes when its cause is gone.

    `reason` is one CamelCase word of docs/operations.md, `message` one sentence with the cause. `fatal` means that no
    restart and no waiting can cure it.
    """

    reason: str = Field(pattern=r"^[A-Z][A-Za-z0-9]{1,63}$")
    message: str = Field(min_length=1, max_length=4096)
    fatal: bool = False


class VersionSpan(Message):
    """The tokens [start, end) of a list were sampled by weight version `version`."""

    version: int = Field(ge=0)
    start: int = Field(ge=0)
    end: int = Field(ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end < self.start:
            raise ValueError(f"end ({self.end}) is before start ({self.start})")
        return self


class StrategyConfig(Message):
    """A named strategy and its parameters, which are in camelCase as the manifest has them."""

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class RoleConfig(Message):
    """What the configuration of every role has: the port it listens on and how long a graceful stop may take."""

    port: int = Field(0, ge=0, le=65535, description="0 takes any free port.")
    shutdown_seconds: float = Field(20.0, gt=0, description="A stop that takes longer is cut short.")
