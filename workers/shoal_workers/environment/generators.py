"""Python's and numpy's global random generators, one of each per thread.

An environment may draw from `random` or `numpy.random` themselves. All slots of a member share a process, so without
this, one slot's draws would change what another slot's seed gives. Each slot has a thread of its own, so each gets
generators of its own, and needs no lock that a slow step would hold against the others.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

NUMPY_SEEDS = 2**32
_local = threading.local()


class _ThreadRandom(random.Random):
    """A generator whose state belongs to the calling thread. What `Random` derives (choice, shuffle, …) follows."""

    def __new__(cls) -> _ThreadRandom:
        return super().__new__(cls)

    def __init__(self) -> None:
        self._made = True
        super().__init__()

    @property
    def gauss_next(self) -> Any:
        """The second half of a pair of Gaussian draws: a thread's own, too."""
        return vars(_own())["gauss_next"]

    @gauss_next.setter
    def gauss_next(self, value: float | None) -> None:
        vars(_own())["gauss_next"] = value

    def random(self) -> float:
        """A float of [0, 1)."""
        return _own().random()

    def getrandbits(self, k: int, /) -> int:
        """An integer of k random bits."""
        return _own().getrandbits(k)

    def seed(self, a: Any = None, version: int = 2) -> None:
        """Seed this thread's generator."""
        if "_made" in self.__dict__:
            _own().seed(a, version)

    def getstate(self) -> tuple[Any, ...]:
        """This thread's state."""
        return _own().getstate()

    def setstate(self, state: tuple[Any, ...]) -> None:
        """Restore this thread's state."""
        _own().setstate(state)


def isolate() -> None:
    """Give each thread generators of its own; to be called before an environment's library is imported.

    A library that imported a function of `random` by name before this keeps the shared generator.
    """
    if getattr(random, "_inst", None).__class__ is not _ThreadRandom:
        _replace(random, _ThreadRandom())
    _isolate_numpy()


def seed_globals(seed: int) -> None:
    """Seed this thread's generators, so that whatever draws from them repeats itself under the same seed."""
    random.seed(seed)
    numpy = _numpy()
    if numpy is not None:
        numpy.random.seed(seed % NUMPY_SEEDS)


def _replace(module: Any, generator: random.Random) -> None:
    old = module._inst
    for name, value in list(vars(module).items()):
        if getattr(value, "__self__", None) is old:
            setattr(module, name, getattr(generator, name))
    module._inst = generator


def _own() -> random.Random:
    found: random.Random | None = getattr(_local, "python", None)
    if found is None:
        found = _local.python = random.Random()
    return found


def _numpy() -> Any:
    try:
        import numpy
    except ImportError:
        return None
    return numpy


def _isolate_numpy() -> None:
    numpy = _numpy()
    if numpy is None or hasattr(numpy.random, "_of_each_thread"):
        return
    shared = numpy.random.mtrand._rand
    for name, value in list(vars(numpy.random).items()):
        if getattr(value, "__self__", None) is shared or name in ("seed", "get_state", "set_state", "ranf", "sample"):
            setattr(numpy.random, name, _of_thread(name, numpy.random.RandomState))
    numpy.random._of_each_thread = True


def _of_thread(name: str, make: Callable[[], Any]) -> Callable[..., Any]:
    method = {"ranf": "random_sample", "sample": "random_sample"}.get(name, name)

    def draw(*args: Any, **kwargs: Any) -> Any:
        state = getattr(_local, "numpy", None)
        if state is None:
            state = _local.numpy = make()
        return getattr(state, method)(*args, **kwargs)

    draw.__name__ = name
    return draw
