"""The API reference and the command that writes the generated files."""

from pathlib import Path

from click.testing import CliRunner

from shoal.crdgen import reference
from shoal.crdgen.__main__ import main

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "api.md"


def test_the_committed_page_is_what_the_models_say() -> None:
    assert PAGE.read_text() == reference.page(), "run `python -m shoal.crdgen`"


def test_tells_type_default_bounds_and_meaning() -> None:
    page = reference.page()
    assert "| `spec.trainer` | object | **required** |" in page
    assert "| `spec.lease.ttl` | duration > 0 | `30s` |" in page
    assert "| `spec.variants` | list of object, keyed by `name` |" in page
    assert "| `spec.scale.buffer` | integer or text | `1` |" in page
    assert "`Deny` \\| `ClusterInternal` \\| `Internet` | `Deny` | Where an environment may connect to." in page
    assert "| `status.conditions[].type` | string |  |" in page


def test_tells_every_rule() -> None:
    rules = reference.page().partition("### RLJob rules")[2]
    assert "model is immutable" in rules


def test_check_fails_when_a_file_differs(tmp_path: Path) -> None:
    out, docs, chart = tmp_path / "crds", tmp_path / "api.md", tmp_path / "chart"
    arguments = ["--out", str(out), "--docs", str(docs), "--chart", str(chart)]
    first = CliRunner().invoke(main, [*arguments, "--check"])
    assert first.exit_code == 1
    assert "rljobs.yaml differs from the models" in first.output
    assert not (tmp_path / "crds").exists()
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert CliRunner().invoke(main, [*arguments, "--check"]).exit_code == 0
    (tmp_path / "api.md").write_text("changed by hand")
    last = CliRunner().invoke(main, [*arguments, "--check"])
    assert (last.exit_code, "api.md differs" in last.output) == (1, True)
