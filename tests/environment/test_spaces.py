"""Actions of every space from text, old forms of reset and step, pictures, and generators of a thread's own."""

from __future__ import annotations

import base64
import json
import random
import sys
import textwrap
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces as gym
from hypothesis import given
from hypothesis import strategies as st

from shoal.api.services.roles.environment import EnvironmentSource
from shoal_workers.environment import generators
from shoal_workers.environment.adapter import EnvironmentAdapter, InvalidActionError
from shoal_workers.environment.adapters import resolve, spaces
from shoal_workers.environment.adapters.fields import plain
from shoal_workers.environment.adapters.pictures import png, split
from shoal_workers.environment.render import TemplateError
from shoal_workers.service import ConfigurationError

MOVE = gym.Dict({"move": gym.Discrete(4), "speed": gym.Box(0, 1, (1,), np.float32)})

FLAT = st.sampled_from(
    [
        gym.Discrete(3, start=1),
        gym.Discrete(5000),
        gym.Box(-1, 1, (2, 2), np.float64),
        gym.MultiDiscrete([3, 4]),
        gym.MultiBinary(3),
        gym.Text(8),
    ]
)
NESTED = st.recursive(
    FLAT,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: gym.Tuple(parts)),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1).map(lambda parts: gym.Dict(parts)),
        inner.map(lambda part: gym.Sequence(part)),
    ),
    max_leaves=6,
)


@given(space=NESTED, seed=st.integers(0, 1000))
def test_every_action_of_every_space_can_be_written(space: Any, seed: int) -> None:
    space.seed(seed)
    action = space.sample()
    text = plain(action) if isinstance(space, gym.Text) else json.dumps(plain(action))
    made = spaces.from_text(space, text)
    assert space.contains(made)
    assert json.dumps(plain(made)) == json.dumps(plain(action))
    assert spaces.describe(space)


@pytest.mark.parametrize(
    ("space", "text", "action"),
    [
        (gym.Discrete(100_000), "not 3 but number 54321!", 54321),
        (gym.Discrete(100_000), "version 1.5 of it is 77", 77),
        (gym.Text(20), "  hello ", "hello"),
        (gym.Tuple((gym.Discrete(3), gym.Discrete(2))), "2 and 1", (2, 1)),
        (MOVE, 'First {"move": 0, "speed": [0]}, no: ```{"move": 3, "speed": [0.5]}```', {"move": 3, "speed": [0.5]}),
    ],
)
def test_what_a_model_writes_around_an_action_is_passed_over(space: Any, text: str, action: Any) -> None:
    assert plain(spaces.from_text(space, text)) == plain(action)


@pytest.mark.parametrize(
    ("space", "text", "reason"),
    [
        (MOVE, "move 1", 'no JSON of the action; answer with JSON: {"move": a whole number from 0 to 3'),
        (MOVE, '{"move": 1}', "has no speed"),
        (MOVE, '{"move": 1, "sped": [1], "speed": [1]}', "unknown sped"),
        (MOVE, '{"move": 9, "speed": [1]}', "a whole number from 0 to 3"),
        (MOVE, '{"move": 1.5, "speed": [1]}', "not a whole number"),
        (gym.Discrete(5000), "5000", "from 0 to 4999"),
        (gym.Discrete(5000), "none", "no whole number"),
        (gym.Text(5), "hello you", "has ' '"),
        (gym.Text(2), "hello", "1 to 2 characters"),
        (gym.MultiDiscrete([3, 4]), "7 7", "at most 2, 3"),
        (gym.Tuple((gym.Discrete(3),)), "[1, 2]", "a list of 1"),
    ],
)
def test_a_wrong_action_says_what_would_be_right(space: Any, text: str, reason: str) -> None:
    with pytest.raises(InvalidActionError) as caught:
        spaces.from_text(space, text)
    assert reason in str(caught.value)


def test_the_schema_of_a_space_names_required_fields() -> None:
    schema = spaces.schema(MOVE)
    assert schema["required"] == ["move", "speed"]
    assert schema["properties"]["move"] == {"type": "integer", "minimum": 0, "maximum": 3}
    assert schema["properties"]["speed"]["minItems"] == 1


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module `own_forms` of environments in the forms that people have."""
    (tmp_path / "own_forms.py").write_text(
        textwrap.dedent(
            """
            import random
            import numpy as np
            from gymnasium import spaces

            class Old:
                action_space = spaces.Discrete(2)
                def reset(self): return [self.number]
                def seed(self, seed): self.number = seed
                def step(self, action): return [0], None, True, {"TimeLimit.truncated": action == 1}

            class Three(Old):
                number = 0
                def step(self, action): return [0], 1.0, True

            class Gone: pass

            class Film:
                action_space = spaces.Dict({"move": spaces.Discrete(2)})
                def reset(self, seed=None):
                    return {"frame": np.arange(40 * 30 * 3, dtype=np.uint8).reshape(40, 30, 3), "lives": 3}, {}
                def step(self, action): return self.reset()[0], 1.0, False, False, {}

            class Wide(Film):
                def reset(self, seed=None): return np.zeros(5000, np.float32), {}

            class Dice:
                action_space = spaces.Discrete(2)
                def reset(self, seed=None): return [random.random(), np.random.rand()], {}
                def step(self, action): return self.reset()[0], 0.0, False, False, {}
            """
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_forms", None)


def made(name: str, **config: Any) -> EnvironmentAdapter:
    return resolve(EnvironmentSource(protocol="Gymnasium", entrypoint=f"own_forms:{name}", config=config)).create()


@pytest.mark.usefixtures("own")
def test_an_environment_of_gyms_old_form_plays() -> None:
    adapter = made("Old")
    assert adapter.reset(7, {}).text == "[7]"
    step = adapter.step({"text": "0"})
    assert (step.reward, step.terminated, step.truncated) == (None, True, False)
    step = adapter.step({"text": "1"})
    assert (step.terminated, step.truncated) == (False, True)
    adapter.close()


@pytest.mark.usefixtures("own")
def test_what_is_no_environment_is_refused_by_what_it_lacks() -> None:
    with pytest.raises(ConfigurationError, match=r"environment\.entrypoint.*Gone.*reset, step, action_space"):
        made("Gone")
    three = made("Three")
    three.reset(None, {})
    with pytest.raises(TypeError, match="step gave 3 values"):
        three.step({"text": "0"})


@pytest.mark.usefixtures("own")
def test_a_step_limit_ends_an_environment_of_any_form() -> None:
    adapter = made("Dice", maxEpisodeSteps=2)
    adapter.reset(1, {})
    assert not adapter.step({"text": "0"}).truncated
    assert adapter.step({"text": "0"}).truncated
    adapter.reset(1, {})
    assert not adapter.step({"text": "0"}).truncated


@pytest.mark.usefixtures("own")
def test_the_first_observation_says_what_nobody_could_guess() -> None:
    adapter = made("Film", observation={"images": True})
    first = adapter.reset(None, {})
    assert first.text == 'lives 3\nAnswer with JSON: {"move": a whole number from 0 to 1}.'
    assert adapter.step({"text": '{"move": 1}'}).observation.text == "lives 3"


@pytest.mark.usefixtures("own")
def test_a_picture_is_sent_as_one_or_refused_by_name() -> None:
    pillow = pytest.importorskip("PIL.Image")
    with pytest.raises(TemplateError, match=r"observation\.frame has 40 x 30 x 3 uint8"):
        made("Film").reset(None, {})
    with pytest.raises(TemplateError, match="observation has 5000 float32"):
        made("Wide", observation={"images": True}).reset(None, {})
    shown = made("Film", observation={"images": True}).reset(None, {})
    assert shown.data == {"lives": 3}
    picture = shown.images["observation.frame"]
    assert picture["media_type"] == "image/png"
    pixels = np.asarray(pillow.open(BytesIO(base64.b64decode(picture["data"]))))
    assert np.array_equal(pixels, np.arange(40 * 30 * 3, dtype=np.uint8).reshape(40, 30, 3))
    assert made("Film", observation={"template": "{lives} lives"}).reset(None, {}).text == "3 lives"


@pytest.mark.parametrize("shape", [(40, 30), (40, 30, 1), (40, 30, 4)])
def test_pictures_of_all_forms_are_files_that_others_read(shape: tuple[int, ...]) -> None:
    pillow = pytest.importorskip("PIL.Image")
    array = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    assert np.array_equal(np.asarray(pillow.open(BytesIO(png(array)))), array.squeeze())


def test_a_small_board_of_bytes_stays_text() -> None:
    board = np.zeros((8, 8), np.uint8)
    assert split((board, 1)) == ((board, 1), {})


@pytest.fixture
def isolated() -> Iterator[None]:
    """The generators of `random` and numpy made each thread's own, and back again."""
    modules = (random, np.random)
    before = [dict(vars(module)) for module in modules]
    generators.isolate()
    yield
    for module, names in zip(modules, before, strict=True):
        for name in set(vars(module)) - set(names):
            delattr(module, name)
        for name, value in names.items():
            setattr(module, name, value)


@pytest.mark.usefixtures("isolated", "own")
def test_slots_that_draw_from_shared_generators_repeat_themselves_under_a_seed() -> None:
    together = threading.Barrier(6)
    seen: dict[int, list[str]] = {}

    def play(number: int) -> None:
        adapter = made("Dice")
        together.wait()
        texts = [adapter.reset(number % 2, {}).text]
        for _ in range(20):
            together.wait()
            texts.append(adapter.step({"text": "0"}).observation.text)
        seen[number] = texts

    threads = [threading.Thread(target=play, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen[0] == seen[2] == seen[4] != seen[1] == seen[3] == seen[5]


@pytest.mark.usefixtures("isolated")
def test_a_threads_own_generator_is_pythons() -> None:
    random.seed(5)
    expected = random.Random(5)
    assert [random.random(), random.gauss(0, 1), random.choice("abc")] == [
        expected.random(),
        expected.gauss(0, 1),
        expected.choice("abc"),
    ]
    state = random.getstate()
    first = random.sample(range(100), 5)
    random.setstate(state)
    assert random.sample(range(100), 5) == first
    np.random.seed(5)
    assert np.random.rand() == np.random.RandomState(5).rand()
