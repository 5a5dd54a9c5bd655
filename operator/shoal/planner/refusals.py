"""Which refusal of the API server a pass has to tell: one of a write that it still wants to make."""

from collections.abc import Iterable

from shoal.planner.actions import Action, Apply, CreateOnce, CreatePod
from shoal.planner.observed import Expected, Refused


def key_of(action: Action) -> str:
    """What refusals of this action are remembered under: a role, or a child's kind and name; "" for none."""
    match action:
        case CreatePod(role, _):
            return role
        case Apply(manifest) | CreateOnce(manifest):
            return child_key(manifest["kind"], manifest["metadata"]["name"])
    return ""


def child_key(kind: str, name: str) -> str:
    """What refusals of a child are remembered under."""
    return f"{kind}/{name}"


def standing(actions: Iterable[Action], expected: Expected) -> Refused | None:
    """The first refusal of a write that is among the actions; those of writes that nobody wants any more are over."""
    keys = (key_of(action) for action in actions)
    return next((expected.refused[key] for key in keys if key in expected.refused), None)
