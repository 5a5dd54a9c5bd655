"""Schemas and rules as pure functions; tests/embedded/conformance compares their words with a real API server."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_embedded.apiserver import formats, rules
from shoal_embedded.apiserver.schema import default, is_blocking, prune, validate
from tests.embedded.conformance.gadgets import SPEC, gadget

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-20, 20) | st.floats(allow_nan=False, allow_infinity=False) | st.text("ab"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(SPEC["properties"])), inner),
    max_leaves=8,
)
SPECS = st.dictionaries(st.sampled_from(sorted(SPEC["properties"])), VALUES, max_size=6)


@settings(deadline=None)
@given(SPECS)
def test_pruning_and_defaults_come_to_rest(spec: dict[str, object]) -> None:
    once = default(prune(spec, SPEC)[0], SPEC)
    assert prune(once, SPEC) == (once, [])
    assert default(once, SPEC) == once


@settings(deadline=None)
@given(SPECS)
def test_any_value_is_judged(spec: dict[str, object]) -> None:
    whole = default(spec, SPEC)
    causes = validate(whole, SPEC, "spec")
    if not is_blocking(causes):
        causes += rules.broken(whole, SPEC, path="spec")
    assert all(each["message"] and each["reason"].startswith("FieldValue") for each in causes)


def test_a_good_object_has_no_causes() -> None:
    spec = default(gadget(tags=["t"], low=1, high=2, choice={"left": "x"}, ratio=0.5)["spec"], SPEC)
    assert validate(spec, SPEC, "spec") == []
    assert rules.broken(spec, SPEC, path="spec") == []


def test_transition_rules_need_something_before() -> None:
    schema = {"properties": {"fixed": SPEC["properties"]["fixed"]}}
    assert rules.broken({"fixed": "new"}, schema) == []
    assert rules.broken({"fixed": "new"}, schema, {}) == []
    assert [each["field"] for each in rules.broken({"fixed": "new"}, schema, {"fixed": "old"})] == ["fixed"]


def test_whole_numbers_are_numbers_to_rules() -> None:
    schema = {
        "type": "object",
        "properties": {"share": {"type": "number"}},
        "x-kubernetes-validations": [{"rule": "self.share < 0.5"}],
    }
    assert rules.broken({"share": 0}, schema) == []
    assert len(rules.broken({"share": 1}, schema)) == 1


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date-time", "2026-01-01T00:00:00Z", "2026-13-01T00:00:00Z"),
        ("date-time", "2026-01-01T00:00:00.5+01:00", "2026-01-01 00:00:00"),
        ("date", "2026-01-31", "2026-02-31"),
        ("duration", "1h30m", "1 hour"),
        ("ipv4", "127.0.0.1", "127.0.0.256"),
        ("ipv6", "::1", "127.0.0.1"),
        ("cidr", "10.0.0.0/8", "10.0.0.0"),
        ("uuid", "12345678-1234-1234-1234-123456789abc", "1234"),
    ],
)
def test_formats(name: str, good: str, bad: str) -> None:
    assert formats.fits(good, name)
    assert not formats.fits(bad, name)


def test_an_unknown_format_passes() -> None:
    assert formats.fits("anything", "no-such-format")
