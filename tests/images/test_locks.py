"""Lock files as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images.locks import Lock, beside, parse, render, shared, version, with_cpu_torch
from images.wheels import outdated

HASH = "--hash=sha256:" + "0" * 64
VERSIONS = st.sampled_from(["1.0", "1.1", "2.0"])


@st.composite
def locks(draw: st.DrawFn) -> Lock:
    names = draw(st.dictionaries(st.sampled_from(["a", "b-c", "d", "torch"]), VERSIONS))
    return {name: f"{name}=={each} \\\n    {HASH}" for name, each in names.items()}


@given(locks())
def test_what_is_written_is_read(lock: Lock) -> None:
    assert parse(render(lock)) == lock


@given(locks(), locks())
def test_shared_and_beside_part_a_lock(one: Lock, other: Lock) -> None:
    assert {**shared(one, other), **beside(one, other)} == one
    assert not set(shared(one, other)) & set(beside(one, other))
    assert set(shared(one, other)) == set(shared(other, one))


def test_comments_and_extras_are_no_part_of_a_name() -> None:
    text = f"# generated\nray[default]==2.0 \\\n    {HASH} \\\n    {HASH}\n    # via shoal\nx==1 \\\n    {HASH}\n"
    lock = parse(text)
    assert list(lock) == ["ray", "x"]
    assert version(lock, "ray") == "ray[default]==2.0"
    assert "via" not in lock["ray"]


@pytest.mark.parametrize("text", ["x>=1 --hash=sha256:0", "x==1\n"])
def test_a_line_that_is_not_pinned_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="x: not pinned by version and hash"):
        parse(text)


def test_the_cpu_build_of_torch_is_named_outright() -> None:
    lock = {"torch": f"torch==2.13.0 \\\n    {HASH}", "x": f"x==1 {HASH}"}
    assert with_cpu_torch(lock) == {**lock, "torch": f"torch==2.13.0+cpu \\\n    {HASH}"}


def test_files_that_a_lock_no_longer_names_are_found() -> None:
    lock = parse(f"a-b==1.2 {HASH}\nray[default]==2.0 {HASH}\nchess==1.11.2 {HASH}\n")
    kept = ["a_b-1.2-py3-none-any.whl", "ray-2.0-cp311-cp311-manylinux.whl", "chess-1.11.2.tar.gz"]
    old = ["a_b-1.1-py3-none-any.whl", "a_b-1.21-py3-none-any.whl", "other-1-py3-none-any.whl"]
    assert outdated(lock, kept + old) == old
