"""Data that games of words need: looked for where it is installed, and never fetched.

TextArena's games call `nltk.download` when they are imported or made. Where the network is denied that waits for
minutes and then fails with a page of text; a member says instead, at once, what is missing.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

# NLTK's name of a resource -> where it lies below a folder of NLTK data.
_PLACES = {"words": "corpora/words", "averaged_perceptron_tagger_eng": "taggers/averaged_perceptron_tagger_eng"}


class MissingDataError(LookupError):
    """Data of NLTK that a game needs is not installed."""

    def __init__(self, names: Iterable[str]) -> None:
        wanted = ", ".join(sorted(names))
        super().__init__(
            f"the game needs NLTK's data {wanted}, which this image does not have and a member does not fetch: put it "
            "into the image (environment.image, or a volume of `template`) and name its folder in NLTK_DATA"
        )


def no_downloads() -> None:
    """Make `nltk.download` raise MissingDataError for what is not installed; nothing where NLTK is not."""
    try:
        nltk: Any = importlib.import_module("nltk")
    except ImportError:
        return

    def installed(info_or_id: Any = None, *_: Any, **__: Any) -> bool:
        names = [info_or_id] if isinstance(info_or_id, str) else list(info_or_id or ())
        missing = [name for name in names if not _there(nltk, name)]
        if missing:
            raise MissingDataError(missing)
        return True

    nltk.download = installed


def _there(nltk: Any, name: str) -> bool:
    place = _PLACES.get(name, f"corpora/{name}")
    for form in (place, f"{place}.zip"):
        try:
            nltk.data.find(form)
        except LookupError:
            continue
        return True
    return False
