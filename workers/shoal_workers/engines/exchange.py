"""Replacing a core's weights: nothing is sampled from a version before it has proved itself, and nothing is lost.

The calls of the core are taken out with the tokens they have, the weights are loaded and probed while the core has
nothing else to do, and the calls go back in to continue after their last token. Weights that fail are followed by the
ones before them, so the engine serves what it served.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from shoal_workers.engines.core import Call, Core, Finished
from shoal_workers.engines.probe import Probe
from shoal_workers.engines.weights import Version
from shoal_workers.tokens.spans import joined

logger = logging.getLogger(__name__)


class RefusedError(Exception):
    """The new weights failed; the core has the weights it had before, and they work."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A version and its number."""

    number: int
    version: Version


def exchange(
    core: Core,
    probe: Probe,
    calls: Mapping[str, Call],
    keep: Callable[[Finished], None],
    new: Weights,
    old: Weights | None,
) -> float:
    """Load `new` between two steps of `calls`; gives the probe's difference.

    `keep` is given what the calls had, also where this fails. Raises RefusedError where `new` failed and `old` is back.
    After any other exception the core has no weights that work.
    """
    taken = core.abort()
    for part in taken:
        keep(part)
    difference, refused = 0.0, ""
    try:
        difference = _load(core, probe, new)
    except Exception as failure:
        if old is None:
            raise
        refused = f"{type(failure).__name__}: {failure}"
        logger.warning("weights failed, going back", extra={"version": new.number, "detail": refused})
        core.abort()
        _load(core, probe, old)
    for part in taken:
        core.add(continued(calls[part.key], part))
    if refused:
        raise RefusedError(refused)
    return difference


def continued(call: Call, part: Finished) -> Call:
    """The call for what is left after `part`."""
    done = len(part.tokens)
    if not done:
        return call
    seed = call.sampling.seed
    # A seed would draw for the rest what it drew for the beginning, so each piece has its own.
    update = {"max_tokens": call.sampling.max_tokens - done, "seed": None if seed is None else seed + done}
    return replace(call, prompt=[*call.prompt, *part.tokens], sampling=call.sampling.model_copy(update=update))


def whole(parts: list[Finished]) -> Finished:
    """The parts of one call laid end to end; it ended as the last one did."""
    if len(parts) == 1:
        return parts[0]
    return Finished(
        parts[0].key,
        [token for part in parts for token in part.tokens],
        [value for part in parts for value in part.logprobs],
        joined((len(part.tokens), part.spans) for part in parts),
        parts[-1].reason,
    )


def _load(core: Core, probe: Probe, weights: Weights) -> float:
    core.load_weights(weights.version.folder, weights.number)
    return probe.run(core, weights.number, weights.version.fixed_prompt)
