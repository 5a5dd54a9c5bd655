"""URLs from addresses of both families."""

import ipaddress
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.api.addresses import bracketed, host_port, http_url

PORTS = st.integers(1, 65535)


@given(st.ip_addresses(), PORTS)
def test_a_url_leads_to_the_address_that_it_was_made_from(address: ipaddress.IPv4Address, port: int) -> None:
    parts = urlsplit(http_url(str(address), port, "/status"))
    assert (parts.hostname, parts.port, parts.path) == (str(address), port, "/status")


@given(st.ip_addresses(), PORTS, st.sampled_from(["", "/", "/ws/a:b"]))
def test_a_url_that_kubernetes_expanded_leads_to_the_same_place(
    address: ipaddress.IPv4Address, port: int, path: str
) -> None:
    expanded = f"http://{address}:{port}{path}"
    assert bracketed(expanded) == http_url(str(address), port, path)


@pytest.mark.parametrize("url", ["http://[fd00::1]:8000/x", "https://env.example:8000", "http://10.0.0.1", "pkg:Make"])
def test_other_urls_stay(url: str) -> None:
    assert bracketed(url) == url


def test_brackets_are_not_doubled() -> None:
    assert host_port("[fd00::1]", 80) == host_port("fd00::1", 80) == "[fd00::1]:80"
