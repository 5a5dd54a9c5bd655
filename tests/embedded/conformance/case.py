"""What a conformance case is: a named feature, and the requests that show it on two servers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

JSON = "application/json"
MERGE, JSON_PATCH = "application/merge-patch+json", "application/json-patch+json"
STRATEGIC, APPLY = "application/strategic-merge-patch+json", "application/apply-patch+yaml"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"

WATCH = "WATCH"
"""The method of a step that reads a watch's events."""


@dataclass(frozen=True)
class Answer:
    """What came back: of a watch, the body is the list of its events."""

    code: int
    body: Any
    type: str = JSON


@dataclass(frozen=True)
class Step:
    """One request.

    In path and body, `{namespace}` stands for the case's namespace and `{NAME}` for what a step before saved as NAME.

    Args:
        raw: the body's bytes, instead of `body`.
        save: name -> dotted path into the answer's body, for later steps.
        until: ask again until this status code comes; for what a server does by and by.
        when: ask again until this holds for the answer.
        events: how many events a watch is read for; 0 reads until the server ends it.
        view: what of the answer must agree, where the whole of it cannot.
        differs: why the embedded server answers otherwise; the suite fails when it does not.
    """

    method: str
    path: str
    body: Any = None
    type: str = JSON
    accept: str = JSON
    raw: bytes | None = None
    save: Mapping[str, str] = field(default_factory=dict)
    until: int = 0
    when: Callable[[Answer], bool] | None = None
    events: int = 0
    view: Callable[[Answer], Any] | None = None
    differs: str = ""


@dataclass(frozen=True)
class Case:
    """A feature under a name, and the requests that show it.

    Args:
        area: the part of the API it belongs to, a heading of the generated page.
        name: what is shown, in words for a reader of the page.
        controllers: whether a controller of Kubernetes has a part in it, so that one must run.
    """

    area: str
    name: str
    steps: tuple[Step, ...]
    controllers: bool = False

    @property
    def differences(self) -> list[str]:
        """Why the embedded server answers otherwise; empty where it agrees in everything."""
        return list(dict.fromkeys(step.differs for step in self.steps if step.differs))


def case(area: str, name: str, *steps: Step, controllers: bool = False) -> Case:
    """A case of these steps."""
    return Case(area, name, steps, controllers)
