"""String formats that kube-apiserver checks and that resources use; it lets a format pass that it does not know."""

import ipaddress
import re
from collections.abc import Callable
from datetime import date, datetime
from uuid import UUID

_DURATION = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))*|0")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def fits(text: str, name: str) -> bool:
    """Whether the text has the format; true for an unknown one."""
    check = _CHECKS.get(name)
    if check is None:
        return True
    try:
        return bool(check(text))
    except ValueError:
        return False


def _time(text: str) -> bool:
    return bool(_TIME.fullmatch(text) and datetime.fromisoformat(text.upper().replace("Z", "+00:00")))


_CHECKS: dict[str, Callable[[str], object]] = {
    "date-time": _time,
    "date": date.fromisoformat,
    "duration": _DURATION.fullmatch,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "cidr": lambda text: "/" in text and ipaddress.ip_network(text, strict=False),
    "uuid": UUID,
}
