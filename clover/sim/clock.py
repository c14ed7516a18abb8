"""Virtual time: an event loop that jumps to its next deadline instead of waiting for it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import selectors
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

_T = TypeVar("_T")

#: Wall time at which virtual runs begin: 2021-03-01T00:00:00Z, so that stamps look like stamps.
EPOCH_S = 1_614_556_800.0
#: Thresholds of the garbage collector during a run, in objects and in collections of the younger generation.
_COLLECT = (50_000, 50, 100)


class DeadlockError(RuntimeError):
    """Every task waits for another one and no timer is set: in real time this would hang for ever."""


class _JumpingSelector(selectors.DefaultSelector):
    """Passes time instead of waiting: nothing outside the loop can ever become ready."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise DeadlockError("all tasks wait and no timer is set")
        if timeout > 0:
            self.now_s += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` is virtual seconds since its start."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # A timer is due when time has reached it; the loop asks for this much slack, which must not be zero time.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Return virtual seconds since the start of the loop."""
        return self._jumping.now_s


class VirtualClock:
    """Wall time of a virtual loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now_s(self) -> float:
        """Return seconds since the Unix epoch, beginning with `EPOCH_S`."""
        return EPOCH_S + self._loop.time()

    def now_ms(self) -> float:
        """Return milliseconds since the Unix epoch."""
        return self.now_s() * 1e3


def run_virtual(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end in virtual time.

    Raises:
        DeadlockError: All tasks wait and no timer is set.
    """
    with _rare_collections(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Look for garbage less often: a run makes millions of messages, and hardly one of them is part of a cycle."""
    before = gc.get_threshold()
    gc.set_threshold(*_COLLECT)
    try:
        yield
    finally:
        gc.set_threshold(*before)
