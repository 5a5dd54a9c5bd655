"""Processes of a former run of the node that belong to no container it knows."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from pathlib import Path

from shoal_embedded.node.procfs import ProcessId, all_processes, descendants, environment, find_marked
from shoal_embedded.node.records import PodFolder
from shoal_embedded.node.surroundings import CONTAINER_MARK, NODE_MARK, POD_MARK


def find_strays(data: Path, pods: AbstractSet[str]) -> list[ProcessId]:
    """Return the marked processes of this node folder that no record claims. `pods`: UIDs that are still wanted.

    A record claims its shim and all its descendants. The rest are processes of pods that were deleted meanwhile, runs
    started in the moment before a kill and never recorded, and orphans of a shim that was killed.
    """
    table = all_processes()
    marked = find_marked({NODE_MARK: str(data)})
    claimed: set[ProcessId] = set()
    for uid, name in {_origin(identity) for identity in marked}:
        if uid not in pods:
            continue
        shim = PodFolder(data / "pods" / uid).load_container(name).shim
        if shim is not None and shim in marked:
            claimed |= {shim, *(process.identity for process in descendants(table, shim.pid))}
    strays = [identity for identity in marked if identity not in claimed]
    # Descendants that hid their mark by rewriting their title go with them.
    hidden = [process.identity for stray in strays for process in descendants(table, stray.pid)]
    return list({*strays, *hidden} - claimed)


def _origin(identity: ProcessId) -> tuple[str, str]:
    variables = environment(identity.pid)
    return variables.get(POD_MARK, ""), variables.get(CONTAINER_MARK, "")
