"""Rewriting, quantities, logs and addresses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_embedded.node.addresses import AddressBook
from shoal_embedded.node.failures import ConfigError
from shoal_embedded.node.logfiles import LogFile
from shoal_embedded.node.podspec import Pod
from shoal_embedded.node.quantities import parse_quantity
from shoal_embedded.node.rewriting import Rewriter, expand
from shoal_embedded.node.services import Backend, endpoints

REWRITE = Rewriter(
    {"/var/lib/shoal": "/real/shared", "/var/lib/shoal-model": "/real/model", "/var/lib/shoal/in": "/real/in"},
    lambda namespace, name: "127.96.0.7" if (namespace, name) == ("ns", "lake-broker") else None,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/var/lib/shoal", "/real/shared"),
        ("/var/lib/shoal/", "/real/shared/"),
        ("/var/lib/shoal/in/x", "/real/in/x"),
        ("/var/lib/shoal-model/a", "/real/model/a"),
        ("/var/lib/shoals", "/var/lib/shoals"),
        ("/mnt/var/lib/shoal", "/mnt/var/lib/shoal"),
        ("--path=/var/lib/shoal", "--path=/real/shared"),
        ("file:///var/lib/shoal/x", "file:///real/shared/x"),
        ('{"a":"/var/lib/shoal","b":"/var/lib/shoal/x"}', '{"a":"/real/shared","b":"/real/shared/x"}'),
        ("http://lake-broker.ns.svc:8001/x", "http://127.96.0.7:8001/x"),
        ('["https://lake-broker.ns.svc.cluster.local:8001"]', '["https://127.96.0.7:8001"]'),
        ("http://lake-broker.ns.svcs:1", "http://lake-broker.ns.svcs:1"),
        ("lake-broker.ns.svc", "lake-broker.ns.svc"),
    ],
)
def test_rewriting(text: str, expected: str) -> None:
    assert REWRITE(text) == expected


def test_an_unknown_service_is_named() -> None:
    with pytest.raises(ConfigError, match='service "a" not found in namespace "b"'):
        REWRITE("http://a.b.svc:1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("$(A)", "1"), ("$(B)", "$(B)"), ("$$(A)", "$(A)"), ("$A", "$A"), ("x$(A)$(A)", "x11"), ("$$$(A)", "$1")],
)
def test_expansion(text: str, expected: str) -> None:
    assert expand(text, {"A": "1"}) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("500m", 0.5), ("64Mi", 2**26), ("1e3", 1000), ("2", 2), ("1.5G", 1.5e9), ("100n", 1e-7)]
)
def test_quantities(text: str, expected: float) -> None:
    assert parse_quantity(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "x", "1Q", "1 Mi", "--1"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        parse_quantity(text)


@given(st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=30), st.integers(0, 35))
def test_the_tail_of_a_log(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], count: int) -> None:
    log = LogFile(tmp_path_factory.getbasetemp() / f"tail-{os.getpid()}.log")
    log.path.write_bytes(b"".join(line + b"\n" for line in lines))
    expected = b"".join(line + b"\n" for line in lines[max(0, len(lines) - count) :])
    assert log.read(log.tail(count)) == expected


def test_a_long_log_loses_its_beginning_alone(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "1.log")
    with log.path.open("ab") as writer:
        for number in range(40_000):
            writer.write(f"line {number:06d} {'x' * 40}\n".encode())
        writer.flush()
        size = log.size
        log.trim(1_000_000)
        assert log.size == size
        writer.write(b"after\n")
    text = log.read(log.start(), size).decode()
    assert text.endswith("after\n")
    numbers = [int(line.split()[1]) for line in text.splitlines()[:-1]]
    assert numbers == list(range(numbers[0], 40_000))
    assert 400_000 < len(text) < 1_000_000
    assert log.path.stat().st_blocks * 512 < 1_000_000


def test_times_of_lines(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "1.log")
    log.path.write_bytes(b"one\n")
    log.note(10.0)
    with log.path.open("ab") as file:
        file.write(b"two\nthree\n")
    log.note(20.0)
    again = LogFile(log.path)
    assert list(again.stamped(0, again.read(0), 30.0)) == [(10.0, b"one\n"), (20.0, b"two\n"), (20.0, b"three\n")]
    assert again.read(again.since(15.0)) == b"two\nthree\n"


def test_addresses_last_and_are_not_used_again_at_once(tmp_path: Path) -> None:
    book = AddressBook(tmp_path / "addresses.json")
    book.claim()
    first, second = book.pod("a"), book.pod("b")
    assert first != second
    assert book.pod("a") == first
    other = AddressBook(tmp_path / "other.json")
    other.claim()
    assert other.pod("a").split(".")[1] != first.split(".")[1]
    other.close()
    book.release_pod("a")
    assert book.pod("c") not in (first, second)
    service = book.service("s", "10.96.0.1")
    assert service.startswith(first.rsplit(".", 2)[0])
    book.close()
    again = AddressBook(tmp_path / "addresses.json")
    again.claim()
    assert (again.pod("b"), again.service("s", "10.96.0.1")) == (second, service)
    again.close()


def test_endpoints_of_a_service() -> None:
    service = {"metadata": {"namespace": "ns"}, "spec": {"selector": {"a": "b"}}}

    def backend(name: str, *, ready: bool = True, namespace: str = "ns", label: str = "b") -> Backend:
        metadata = {"name": name, "namespace": namespace, "uid": name, "labels": {"a": label}}
        ports = [{"name": "http", "containerPort": 8001}]
        return Backend(
            Pod({"metadata": metadata, "spec": {"containers": [{"name": "m", "ports": ports}]}}), name, ready
        )

    backends = [
        backend("10"),
        backend("11", ready=False),
        backend("12", namespace="other"),
        backend("13", label="c"),
        backend("14"),
    ]
    assert endpoints(service, {"port": 80, "targetPort": "http"}, backends) == [("10", 8001), ("14", 8001)]
    assert endpoints(service, {"port": 80}, backends) == [("10", 80), ("14", 80)]
    assert endpoints(service, {"port": 80, "targetPort": "none"}, backends) == []
