"""What stands in for mount and network namespaces: paths and host names in arguments and variables are rewritten.

Pure. A mount path becomes the volume's real directory, the host of a Service's URL the address its relay listens on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from shoal_embedded.node.failures import ConfigError

_REFERENCE = re.compile(r"\$(\$|\(([^()]*)\))")
_SERVICE_HOST = re.compile(
    r"\b((?:https?|wss?)://)([a-z0-9](?:[a-z0-9-]*[a-z0-9])?)\.([a-z0-9](?:[a-z0-9-]*[a-z0-9])?)\.svc"
    r"(?:\.cluster\.local)?(?=[:/?#\"'\s,;)\]}]|$)"
)

ServiceAddress = Callable[[str, str], str | None]
"""Address of the Service (namespace, name), or None when there is no such Service."""


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` as kubelet does: unknown names stay as they are, `$$` is one `$`."""

    def value(match: re.Match[str]) -> str:
        if match.group(1) == "$":
            return "$"
        return variables.get(match.group(2), match.group(0))

    return _REFERENCE.sub(value, text)


class Rewriter:
    """Rewrites the texts of one container. `mounts`: mount path -> real path."""

    def __init__(self, mounts: Mapping[str, str], service_address: ServiceAddress) -> None:
        self._mounts = {path.rstrip("/"): real for path, real in mounts.items() if path.rstrip("/")}
        self._service_address = service_address
        # The longest first: a mount inside another mount hides that part of it.
        paths = sorted(map(re.escape, self._mounts), key=len, reverse=True)
        # At a path boundary: not in the middle of a longer path, but after `file://`.
        self._paths = re.compile(rf"(?:(?<![\w.\-/])|(?<=://))(?:{'|'.join(paths)})(?![\w.\-])") if paths else None

    def __call__(self, text: str) -> str:
        """Return the text with real paths and addresses; raises `ConfigError` for a Service that does not exist."""
        if self._paths is not None:
            text = self._paths.sub(lambda match: self._mounts[match.group(0)], text)
        return _SERVICE_HOST.sub(self._address, text)

    def _address(self, match: re.Match[str]) -> str:
        scheme, name, namespace = match.groups()
        address = self._service_address(namespace, name)
        if address is None:
            raise ConfigError(f'service "{name}" not found in namespace "{namespace}"')
        return f"{scheme}{address}"
