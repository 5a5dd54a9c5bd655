"""Which shared children (Services, Secrets, owned resources) have to be written."""

from collections.abc import Mapping, Sequence

from shoal.api.labels import SPEC_HASH
from shoal.planner.actions import Action, Apply, CreateOnce, Manifest


def changed_children(children: Sequence[Manifest], present: Mapping[tuple[str, str], str]) -> list[Action]:
    """The writes that bring the children up to date; none when nothing changed.

    Args:
        children: the built objects; one without a hash is created once and then left alone.
        present: (kind, name) -> hash of the children that exist; "" for one without a hash.
    """
    actions: list[Action] = []
    for child in children:
        stored = present.get((child["kind"], child["metadata"]["name"]))
        digest = child["metadata"].get("annotations", {}).get(SPEC_HASH)
        if digest is None:
            actions += [CreateOnce(child)] if stored is None else []
        elif stored != digest:
            actions.append(Apply(child, first=stored is None))
    return actions
