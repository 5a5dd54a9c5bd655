"""The adapters: configuration, text, actions, and what is wrong about a wrong configuration."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from shoal.api.services.roles.environment import EnvironmentSource
from shoal_workers.environment.actions import NamedActions, numbers
from shoal_workers.environment.adapter import EnvironmentAdapter, InvalidActionError
from shoal_workers.environment.adapters import protocols, resolve
from shoal_workers.environment.render import Template, TemplateError, as_text, unravel
from shoal_workers.service import ConfigurationError

FROZEN_LAKE: dict[str, Any] = {
    "kwargs": {"desc": ["SSSF", "SHSH", "SSSH", "HSSG"], "is_slippery": False},
    "observation": {"template": "state {observation}"},
    "actions": {"left": 0, "down": 1, "right": 2, "up": 3},
    "actionPick": "whole",
}


def make(protocol: str, entrypoint: str | None, config: dict[str, Any] | None = None) -> EnvironmentAdapter:
    return resolve(EnvironmentSource(protocol=protocol, entrypoint=entrypoint, config=config or {})).create()


def test_frozen_lake_as_the_main_example_has_it() -> None:
    adapter = make("Gymnasium", "FrozenLake-v1", FROZEN_LAKE)
    first = adapter.reset(3, {})
    assert first == adapter.reset(3, {}), "the same seed must be the same start"
    starts = {adapter.reset(seed, {}).text for seed in range(200)}
    assert starts == {f"state {cell}" for cell in (0, 1, 2, 4, 6, 8, 9, 10, 13, 14)}
    adapter.reset(3, {})
    for text in ("", "go left", "left left", "up down", "7"):
        with pytest.raises(InvalidActionError):
            adapter.step({"text": text})
    step = adapter.step({"text": "left"})
    assert (step.reward, step.truncated) == (0.0, False)
    assert step.observation.text.startswith("state ")


def test_frozen_lake_pays_at_the_goal_and_ends_in_a_hole() -> None:
    config = FROZEN_LAKE | {"kwargs": {"map_name": "4x4", "is_slippery": False}}
    adapter = make("Gymnasium", "FrozenLake-v1", config)
    adapter.reset(0, {})
    steps = [adapter.step({"text": action}) for action in ["down", "down", "right", "right", "down", "right"]]
    assert [step.reward for step in steps] == [0, 0, 0, 0, 0, 1]
    assert [step.terminated for step in steps] == [False] * 5 + [True]
    adapter.reset(0, {})
    fall = [adapter.step({"text": action}) for action in ("right", "down")]
    assert (fall[-1].terminated, fall[-1].reward) == (True, 0)


def test_the_owner_may_say_how_a_malformed_action_counts() -> None:
    policy = {"invalidAction": {"reward": -0.5, "terminated": True, "text": "what?"}}
    adapter = make("Gymnasium", "FrozenLake-v1", FROZEN_LAKE | policy)
    adapter.reset(0, {})
    step = adapter.step({"text": "gibberish"})
    assert (step.reward, step.terminated, step.observation.text) == (-0.5, True, "what?")
    assert "gibberish" in step.observation.info["invalid_action_counted"]


def test_flat_indices_get_coordinates_and_words() -> None:
    config = {
        "observation": {
            "shape": [5, 5, 5, 4],
            "names": ["row", "column", "passenger", "destination"],
            "labels": {"passenger": ["red", "green", "yellow", "blue", "taxi"], "destination": list("rgyb")},
        },
        "actions": {"south": 0, "north": 1, "east": 2, "west": 3, "pick up": 4, "drop off": 5},
    }
    adapter = make("Gymnasium", "Taxi-v4", config)
    text = adapter.reset(1, {}).text.split()
    assert text[0::2] == ["row", "column", "passenger", "destination"]
    assert text[5] in ("red", "green", "yellow", "blue")
    assert adapter.step({"text": "I will pick up the passenger"}).reward == -10


def test_vectors_attributes_rewards_and_limits() -> None:
    config = {
        "observation": {"names": ["x", "v", "angle", "spin"], "template": "turn {turn}: {angle:.1f}", "first": "go"},
        "reward": {"scale": 2.0, "step": -0.5},
        "maxEpisodeSteps": 2,
    }
    adapter = make("Gymnasium", "CartPole-v1", config)
    assert adapter.reset(0, {}).text == "go"
    first, second = adapter.step({"text": "1"}), adapter.step({"value": 0})
    assert first.observation.text.startswith("turn 1: ")
    assert (first.reward, second.truncated) == (1.5, True)
    lake = FROZEN_LAKE | {"observation": {"attributes": {"map": "desc"}, "template": "{map}"}}
    assert make("Gymnasium", "FrozenLake-v1", lake).reset(0, {}).text == "SSSF\nSHSH\nSSSH\nHSSG"


def test_box_actions_are_numbers() -> None:
    adapter = make("Gymnasium", "Pendulum-v1")
    assert adapter.reset(0, {}).text.startswith("[")
    assert adapter.step({"text": "torque 0.5"}).reward is not None
    for text in ("", "1 2", "9000"):
        with pytest.raises(InvalidActionError):
            adapter.step({"text": text})


def test_a_task_may_change_the_environment() -> None:
    adapter = make("Gymnasium", "FrozenLake-v1", FROZEN_LAKE)
    assert adapter.reset(0, {"kwargs": {"desc": ["FS", "FG"]}}).text == "state 1"
    assert adapter.step({"text": "down"}).reward == 1
    adapter.reset(0, {})
    adapter.close()


def test_textarena_plays_a_whole_game() -> None:
    config = {"actions": {name: f"[{name}]" for name in ("up", "down", "left", "right")}}
    adapter = make("TextArena", "FrozenLake-v0", config)
    first = adapter.reset(5, {})
    assert "Welcome to Frozen Lake!" in first.text
    assert adapter.reset(5, {}).text == first.text
    assert len({adapter.reset(seed, {}).text for seed in range(20)}) > 5
    adapter.reset(5, {})
    step = adapter.step({"text": "I go right"})
    assert step.observation.text.startswith("You moved right"), "only what is new, without the player's own words"
    assert step.reward is None
    with pytest.raises(InvalidActionError):
        adapter.step({"text": "fly"})
    while not (step := adapter.step({"text": "down"})).terminated:
        pass
    assert step.reward is not None
    assert "reason" in step.observation.info["info"]


def test_textarena_templates_read_the_state_of_the_game() -> None:
    config = {"observation": {"template": "at {player_pos[0]} {player_pos[1]}"}}
    adapter = make("TextArena", "FrozenLake-v0", config)
    assert adapter.reset(5, {}).text == "at 0 0"


def test_textarena_slots_do_not_share_their_luck() -> None:
    def game(adapter: EnvironmentAdapter, seed: int) -> list[str]:
        texts = [adapter.reset(seed, {}).text]
        return texts + [adapter.step({"text": f"[{guess}]"}).observation.text for guess in (10, 15)]

    alone = game(make("TextArena", "GuessTheNumber-v0"), 1)
    one, other = make("TextArena", "GuessTheNumber-v0"), make("TextArena", "GuessTheNumber-v0")
    first = [one.reset(1, {}).text]
    other.reset(2, {})
    first += [one.step({"text": "[10]"}).observation.text]
    other.step({"text": "[3]"})
    first += [one.step({"text": "[15]"}).observation.text]
    assert first == alone


@pytest.mark.parametrize(
    ("protocol", "entrypoint", "config", "message"),
    [
        ("Nothing", "x", {}, "environment.protocol: there is no adapter 'Nothing'; there are: Gymnasium, "),
        ("Gymnasium", None, {}, "environment.entrypoint: an environment id"),
        ("Gymnasium", "FrozenLagoon-v1", {}, "environment.entrypoint: .*FrozenLagoon"),
        ("Gymnasium", "no_such_module:make", {}, "environment.entrypoint: cannot import 'no_such_module'"),
        ("Gymnasium", "math:nothing", {}, "environment.entrypoint: module 'math' has no 'nothing'"),
        ("Gymnasium", "FrozenLake-v1", {"kwargs": {"ice": 1}}, "environment.config.kwargs: .*ice"),
        ("Gymnasium", "FrozenLake-v1", {"kwarg": {}}, "environment.config.kwarg: Extra inputs"),
        ("Gymnasium", "FrozenLake-v1", {"observation": {"template": "{"}}, "environment.config.observation"),
        ("Gymnasium", "FrozenLake-v1", {"actions": {"a": 0}, "actionPattern": "("}, "environment.config.actionPattern"),
        ("Gymnasium", "FrozenLake-v1", {"observation": {"shape": [4, 4]}}, "names has 0 entries, shape has 2"),
        ("TextArena", "NoGame-v0", {}, "environment.entrypoint: .*NoGame-v0"),
        ("TextArena", "TicTacToe-v0", {}, "environment.entrypoint: not a single-player game"),
        ("TextArena", "FrozenLake-v0", {"kwargs": {"ice": 1}}, "environment.config.kwargs: .*ice"),
        ("TextArena", "FrozenLake-v0", {"observation": {"kinds": ["X"]}}, r"observation.kinds.0: 'X' is not one of"),
        ("OpenEnv", "not a url", {}, "environment.entrypoint: .*neither a URL nor module:factory"),
        ("OpenEnv", "math:sqrt", {}, "environment.config.action: module:Class"),
    ],
)
def test_a_wrong_configuration_names_the_field(
    protocol: str, entrypoint: str | None, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make(protocol, entrypoint, config)


def test_an_environment_from_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fake_lake.py").write_text(
        textwrap.dedent("""
        import gymnasium

        def make(size=2):
            return gymnasium.make("FrozenLake-v1", desc=["S" + "F" * (size - 1), "F" * (size - 1) + "G"])
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    adapter = make("Gymnasium", "fake_lake:make", {"kwargs": {"size": 3}, "maxEpisodeSteps": 1})
    adapter.reset(0, {})
    assert adapter.step({"text": "0"}).truncated
    del sys.modules["fake_lake"]


def test_only_the_library_in_use_is_imported() -> None:
    import subprocess

    program = (
        "import sys, shoal_workers.environment.server;"
        "assert not {'gymnasium', 'textarena', 'openenv', 'websockets.sync.client', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_there_are_three_adapters() -> None:
    assert set(protocols()) >= {"Gymnasium", "OpenEnv", "TextArena"}


def test_names_are_found_as_the_settings_say() -> None:
    actions = {"turn": 0, "turn left": 1, "stop": 2}
    assert NamedActions(actions).parse("I turn left, then stop") == 2
    assert NamedActions(actions, pick="first").parse("I TURN LEFT, then stop") == 1
    assert NamedActions(actions, pick="whole").parse(" Stop ") == 2
    assert NamedActions(actions, pattern=r"<do>(.*?)</do>").parse("stop <do>turn</do> stop") == 0
    for pick, text in (("only", "turn and stop"), ("whole", "stop!"), ("last", "unstoppable")):
        with pytest.raises(InvalidActionError):
            NamedActions(actions, pick=pick).parse(text)  # type: ignore[arg-type]
    assert numbers("x=-1.5e1, y=.5", 2) == [-15.0, 0.5]


def test_templates() -> None:
    assert Template("{a} {b[0]} {c:.2f}").fill({"a": 1, "b": [2], "c": 3.14159}) == "1 2 3.14"
    with pytest.raises(TemplateError, match="no field 'z'; there are: a"):
        Template("{z}").fill({"a": 1})
    with pytest.raises(TemplateError):
        Template("{a:%%}").fill({"a": []})
    assert as_text({"text": "x", "y": 1}) == "x"
    assert as_text([1, 2]) == "[1,2]"
    assert unravel(11, [3, 4]) == [2, 3]
    with pytest.raises(ValueError, match="outside"):
        unravel(12, [3, 4])


def test_a_protocol_of_your_own_is_found_by_package_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_protocol.py").write_text(
        textwrap.dedent(
            """
            from shoal_workers.environment.adapter import Backend

            def Doors(source):
                return Backend(f"doors {source.config['count']}", create=lambda: None)

            def Nothing(source):
                return None
            """
        )
    )
    info = tmp_path / "own_dist-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-dist\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[shoal.environments]\nGates = own_protocol:Doors\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("own_protocol:Doors", "own-dist:Gates"):
        backend = resolve(EnvironmentSource(protocol=name, config={"count": 3}))
        assert backend.name == "doors 3"
    with pytest.raises(ConfigurationError, match="did not give a Backend but NoneType"):
        resolve(EnvironmentSource(protocol="own_protocol:Nothing"))
    with pytest.raises(ConfigurationError, match=r"environment\.protocol: own_protocol:Gone"):
        resolve(EnvironmentSource(protocol="own_protocol:Gone"))
