"""URLs from addresses: an IPv6 address stands in brackets (RFC 3986, section 3.2.2)."""

import re

_BARE = re.compile(
    r"^(?P<scheme>[a-z]+://)(?P<host>[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:[0-9A-Fa-f.:]*):(?P<port>[0-9]+)(?P<rest>/.*)?$"
)


def host_port(host: str, port: int) -> str:
    """`host:port`, with an IPv6 address in brackets; brackets that are there already stay."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def http_url(host: str, port: int, path: str = "") -> str:
    """The URL of an HTTP service at an address or a name; `path` begins with a slash, or is empty."""
    return f"http://{host_port(host, port)}{path}"


def bracketed(url: str) -> str:
    """The URL with its IPv6 host in brackets.

    Kubernetes expands `http://$(POD_IP):8000` without them. The last colon is then the port's; any other URL stays as
    it is.
    """
    found = _BARE.match(url)
    if found is None:
        return url
    return f"{found['scheme']}[{found['host']}]:{found['port']}{found['rest'] or ''}"
