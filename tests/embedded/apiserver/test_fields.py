"""Sets of fields and who owns them, as pure functions."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shoal_embedded.apiserver.apply import apply, written
from shoal_embedded.apiserver.fields import Shape, compare, decode, encode, owned

Json = dict[str, Any]
NOW = "2026-01-01T00:00:00Z"
LEAVES = st.integers(0, 3) | st.text("xy", max_size=2) | st.booleans()
SPECS = st.recursive(
    st.dictionaries(st.sampled_from("abc"), LEAVES, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner | LEAVES, max_size=3),
    max_leaves=8,
)
SCHEMA: Json = {"x-kubernetes-preserve-unknown-fields": True}


def thing(spec: Json, **metadata: Any) -> Json:
    return {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "t", **metadata}, "spec": spec}


def owners(body: Json) -> dict[str, set[tuple[str, ...]]]:
    return {each["manager"]: decode(each["fieldsV1"]) for each in body["metadata"].get("managedFields", ())}


@given(SPECS)
def test_a_set_survives_being_written_down(spec: Json) -> None:
    paths = owned(thing(spec), Shape(SCHEMA))
    assert decode(encode(paths)) == paths


@given(SPECS, SPECS)
def test_a_comparison_names_no_field_twice(before: Json, after: Json) -> None:
    changed, removed = compare(thing(before), thing(after), Shape(SCHEMA))
    assert not changed & removed
    assert bool(changed or removed) == (before != after)


@given(SPECS, SPECS)
def test_what_an_update_writes_has_one_owner(first: Json, second: Json) -> None:
    one = written({"metadata": {}}, thing(first), "one", "", SCHEMA, NOW)
    two = written(one, thing(second), "two", "", SCHEMA, NOW)
    has = owners(two)
    assert not has.get("one", set()) & has.get("two", set())
    assert set().union(*has.values()) <= compare({"metadata": {}}, thing(second), Shape(SCHEMA))[0]


@given(SPECS, SPECS)
def test_what_a_sole_applier_no_longer_sets_is_gone(first: Json, second: Json) -> None:
    live = apply(None, thing(first), "one", force=False, schema=SCHEMA, now=NOW)
    live = apply(live, thing(second), "one", force=False, schema=SCHEMA, now=NOW)
    assert live["spec"] == second


@given(SPECS, SPECS)
def test_an_applier_with_force_gets_what_it_asks_for(first: Json, second: Json) -> None:
    live = written({"metadata": {}}, thing(first), "one", "", SCHEMA, NOW)
    live = apply(live, thing(second), "two", force=True, schema=SCHEMA, now=NOW)
    assert compare(thing(second), live, Shape(SCHEMA))[1] == set()
    assert apply(live, thing(second), "two", force=False, schema=SCHEMA, now=NOW) == live
