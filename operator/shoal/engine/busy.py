"""How long a coroutine kept the processor, without what it waited for and without what others did meanwhile."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Busy(Generic[T]):
    """Await it in place of the coroutine; `seconds` then tells the processor time of its own steps (not of its tasks).

    Errors and cancellation pass through as if it were not there.
    """

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self.seconds = 0.0

    def __await__(self) -> Generator[Any, Any, T]:
        """Drive the coroutine step by step."""
        answer: Any = None
        failure: BaseException | None = None
        while True:
            # Of this thread: a machine that is busy with other things must not look like work.
            started = time.thread_time()
            try:
                waited_for = self._work.send(answer) if failure is None else self._work.throw(failure)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                self.seconds += time.thread_time() - started
            answer, failure = None, None
            try:
                answer = yield waited_for
            except GeneratorExit:
                self._work.close()
                raise
            except BaseException as error:
                failure = error
