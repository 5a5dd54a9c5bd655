"""Reading manifests and setting fields."""

from pathlib import Path

import pytest

from shoal.cli.errors import UserError
from shoal.cli.manifests import read_manifests, set_field

GOOD = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: b}\n"


def test_reads_every_document_of_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(GOOD)
    (tmp_path / "two.json").write_text('{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c"}}')
    (tmp_path / "notes.txt").write_text("no manifest")
    assert [each["metadata"]["name"] for each in read_manifests((tmp_path,))] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not YAML"),
        ("- 1", "is not an object"),
        ("kind: Pod\nmetadata: {name: a}", "apiVersion is missing"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {}", "metadata.name is missing"),
        ("", "no manifest"),
    ],
)
def test_says_what_is_wrong_with_a_file(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read_manifests((tmp_path / "bad.yaml",))


def test_sets_fields_by_path() -> None:
    job = {"spec": {"environments": [{"name": "a"}], "trainer": {"steps": 1}}}
    set_field(job, "spec.trainer.steps=20")
    set_field(job, "spec.environments.0.name=b")
    set_field(job, "spec.data.groupSize=4")
    assert job == {"spec": {"environments": [{"name": "b"}], "trainer": {"steps": 20}, "data": {"groupSize": 4}}}


@pytest.mark.parametrize("assignment", ["spec.trainer", "=1", "spec.environments.7.name=x", "spec.trainer.steps.x=1"])
def test_refuses_a_path_that_leads_nowhere(assignment: str) -> None:
    with pytest.raises(UserError, match="--set"):
        set_field({"spec": {"environments": [], "trainer": {"steps": 1}}}, assignment)
