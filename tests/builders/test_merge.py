"""Strategic merge of a pod template."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.builders.merge import strategic_merge

CASES = [
    ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
    ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
    ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
    (
        {"containers": [{"name": "main", "image": "x", "env": [{"name": "A", "value": "1"}]}]},
        {"containers": [{"name": "main", "env": [{"name": "B", "value": "2"}]}, {"name": "side"}]},
        {
            "containers": [
                {"name": "main", "image": "x", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
                {"name": "side"},
            ]
        },
    ),
    ({"command": ["a", "b"]}, {"command": ["c"]}, {"command": ["c"]}),
    ({"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "b"}]}, {"tolerations": [{"key": "a"}, {"key": "b"}]}),
    (
        {"volumeMounts": [{"mountPath": "/a", "name": "x"}]},
        {"volumeMounts": [{"mountPath": "/a", "readOnly": True}]},
        {"volumeMounts": [{"mountPath": "/a", "name": "x", "readOnly": True}]},
    ),
]


@pytest.mark.parametrize(("base", "patch", "merged"), CASES)
def test_merges(base: Any, patch: Any, merged: Any) -> None:
    assert strategic_merge(base, patch) == merged


JSON = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_a_patch_laid_over_twice_changes_nothing_more(base: Any, patch: Any) -> None:
    once = strategic_merge(base, patch)
    assert strategic_merge(once, patch) == once


@given(JSON)
def test_an_empty_patch_of_an_object_changes_nothing(base: Any) -> None:
    assert strategic_merge({"x": base}, {}) == {"x": base}
