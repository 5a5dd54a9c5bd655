"""The commands of the embedded control plane, in an installation that has none."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from shoal.cli.embedded import embedded_installed
from shoal.cli.main import main


@pytest.mark.parametrize("command", ["up", "down"])
def test_says_what_to_install(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "shoal_embedded"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "shoal_embedded", None)
    result = CliRunner().invoke(main, [command, "--state-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "pip install '.[local]'" in result.output


def test_another_missing_package_is_not_taken_for_it() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package"), embedded_installed():
        import no_such_package  # type: ignore[import-not-found]  # noqa: F401
