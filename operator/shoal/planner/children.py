"""Which shared children (Services, Secrets, owned resources) have to be written."""

from collections.abc import Mapping, Sequence

from shoal.api.labels import SPEC_HASH
from shoal.planner.actions import Action, Apply, CreateOnce, Manifest
from shoal.planner.drift import LiveChild, difference

Present = Mapping[tuple[str, str], LiveChild | str]
"""(kind, name) -> the child as the server holds it, or the hash that it was built with where no more is compared."""


def changed_children(children: Sequence[Manifest], present: Present) -> list[Action]:
    """The writes that bring the children up to date; none when nothing changed.

    Args:
        children: the built objects; one without a hash is created once and then left alone.
        present: the children that exist.
    """
    actions: list[Action] = []
    for child in children:
        stored = present.get((child["kind"], child["metadata"]["name"]))
        digest = child["metadata"].get("annotations", {}).get(SPEC_HASH)
        if digest is None:
            actions += [CreateOnce(child)] if stored is None else []
        elif stored is None or hash_of(stored) != digest:
            actions.append(Apply(child, first=stored is None))
        elif isinstance(stored, LiveChild) and (field := difference(child, stored.body)):
            actions.append(Apply(child, drift=drift_of(child, stored, field), version=stored.version))
    return actions


def hash_of(stored: LiveChild | str) -> str:
    """The hash that the child was built with; "" when it has none any more."""
    if isinstance(stored, str):
        return stored
    annotations = (stored.body.get("metadata") or {}).get("annotations") or {}
    return str(annotations.get(SPEC_HASH, ""))


def drift_of(child: Manifest, stored: LiveChild, field: str) -> str:
    """What somebody changed, and who, in words."""
    by = f" by {stored.changed_by}" if stored.changed_by else ""
    return f"{child['kind']} {child['metadata']['name']}: {field} was changed{by}"
