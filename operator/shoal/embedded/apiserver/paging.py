"""Lists in pages: the rest of a list is kept as it was when the list began."""

import secrets
from collections import OrderedDict
from typing import Any

from shoal.embedded.apiserver.errors import gone

Json = dict[str, Any]

OPEN_LISTS = 200
"""Unfinished lists that are kept; a client that comes back later is told to begin again, as kube-apiserver does."""


class Pages:
    """Unfinished lists by token."""

    def __init__(self) -> None:
        self._rest: OrderedDict[str, tuple[list[Json], str]] = OrderedDict()

    def keep(self, items: list[Json], version: str) -> str:
        """Keep the rest of a list; returns the token that continues it."""
        token = secrets.token_urlsafe(12)
        self._rest[token] = (items, version)
        if len(self._rest) > OPEN_LISTS:
            self._rest.popitem(last=False)
        return token

    def resume(self, token: str) -> tuple[list[Json], str]:
        """The rest of a list and its version; raises 410 when it is no longer kept."""
        found = self._rest.get(token)
        if found is None:
            raise gone("The provided continue parameter is too old to display a consistent list result.")
        return found
