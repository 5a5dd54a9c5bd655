"""TextArena's games: each one plays, or says at the start why it does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from shoal.api.services.roles.environment import EnvironmentConfig, EnvironmentSource
from shoal_workers.environment.adapter import EnvironmentAdapter
from shoal_workers.environment.adapters import resolve
from shoal_workers.environment.adapters.textdata import MissingDataError, no_downloads
from shoal_workers.environment.server import build
from shoal_workers.service import ConfigurationError, Identity

nltk = pytest.importorskip("nltk")
registration = pytest.importorskip("textarena.envs.registration")


@pytest.fixture(autouse=True)
def _nltk() -> Iterator[None]:
    before = nltk.download
    yield
    nltk.download = before


def make(game: str) -> EnvironmentAdapter:
    return resolve(EnvironmentSource(protocol="TextArena", entrypoint=game)).create()


def start(game: str) -> None:
    """Start a member as its process does."""
    source = EnvironmentSource(protocol="TextArena", entrypoint=game)
    build(EnvironmentConfig(environment=source), Identity("member-0", "default", "127.0.0.1", "uid"))


@pytest.mark.parametrize("game", ["Countdown-v0", "Cryptarithm-v0", "Slitherlink-v0", "FrozenLake-v0", "Secretary-v0"])
def test_a_game_plays_and_repeats_itself_under_a_seed(game: str) -> None:
    one, other = make(game), make(game)
    texts = [adapter.reset(3, {}).text for adapter in (one, other, one)]
    assert texts[0] == texts[1] == texts[2] != ""
    steps = [adapter.step({"text": "[1]"}) for adapter in (one, other)]
    assert steps[0].observation.text == steps[1].observation.text != ""


def test_what_is_not_installed_is_named_and_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.data, "path", [])
    no_downloads()
    with pytest.raises(MissingDataError, match=r"NLTK's data averaged_perceptron_tagger_eng, words.*NLTK_DATA"):
        nltk.download(["words", "averaged_perceptron_tagger_eng"])
    with pytest.raises(ConfigurationError, match=r"environment\.entrypoint: .*NLTK"):
        make("Hangman-v0")


def test_data_that_is_installed_is_used(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path)) / "corpora" / "words"
    folder.mkdir(parents=True)
    (folder / "en").write_text("apple\n")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    no_downloads()
    assert nltk.download("words")
    with pytest.raises(MissingDataError):
        nltk.download("averaged_perceptron_tagger_eng")


def test_a_slow_game_holds_up_no_other() -> None:
    slow, quick = make("FrozenLake-v0"), make("FrozenLake-v0")
    go, inside = threading.Event(), threading.Event()
    slow.reset(1, {})
    game = slow._game  # type: ignore[attr-defined]
    step = game.step

    def waiting(action: str) -> object:
        inside.set()
        go.wait(10)
        return step(action=action)

    game.step = waiting
    thread = threading.Thread(target=slow.step, args=({"text": "[up]"},))
    thread.start()
    assert inside.wait(10)
    quick.reset(2, {})
    quick.step({"text": "[up]"})
    assert thread.is_alive()
    go.set()
    thread.join()


@pytest.mark.slow
def test_every_game_of_the_installed_version_plays_or_says_why_not() -> None:
    games = {str(spec.entry_point): name for name, spec in reversed(registration.ENV_REGISTRY.items())}
    playing: list[str] = []
    refused: dict[str, str] = {}
    for game in games.values():
        try:
            start(game)
        except ConfigurationError as error:
            refused[game] = str(error)
            continue
        adapter = make(game)
        assert adapter.reset(3, {}).text == adapter.reset(3, {}).text, game
        adapter.step({"text": "[1]"})
        playing.append(game)
    assert len(playing) >= 20
    assert all(len(cause) > 30 and cause.startswith("environment.") for cause in refused.values()), refused
