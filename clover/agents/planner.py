"""Runs planning beside the event loop, one plan at a time, and waits for it only so long."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")

#: Runs a slow pure function; in a thread when live, at once in virtual time.
Compute = Callable[[Callable[[], _T]], Awaitable[_T]]

#: Niceness of a thread that yields: an eighth of the processor time where others want it too, all of it otherwise.
_YIELDING = 10


def in_a_yielding_thread() -> Compute[Any]:
    """Return what computes in a thread of lower priority than the rest of the process (Linux; elsewhere of the same).

    A certificate takes seconds of a core. Where real models are served by the same cores, requests must come first.
    """
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="plan", initializer=_yield_to_others)

    async def compute(function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(thread, function)

    return compute


def _yield_to_others() -> None:
    if sys.platform == "linux":
        # There a thread has a priority of its own; to lower it needs no right.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _YIELDING)


class Planner(Generic[_T]):
    """A scheme remembers what it has seen and is used by one plan at a time; a plan that has begun is never broken off.

    Args:
        compute: Runs a plan.
        within_s: Longest wait for one.
    """

    def __init__(self, compute: Compute[_T], *, within_s: float) -> None:
        self._compute = compute
        self.within_s = within_s
        self._running: asyncio.Future[Any] | None = None

    def begin(self, function: Callable[[], _T]) -> asyncio.Future[_T]:
        """Run a function as soon as nothing else is planned; return the future that will have what it returns."""
        task = asyncio.ensure_future(self._after(self._running, function))
        self._running = task
        return task

    def spare(self, function: Callable[[], _T]) -> None:
        """Run a function while nothing else is planned; nobody waits for it but the next plan."""
        self._running = asyncio.ensure_future(self._after(self._running, function))

    async def wait(self, future: asyncio.Future[_T], *, at_most_s: float | None = None) -> _T | None:
        """Wait for a plan, as long as one is waited for if not told otherwise; None if it takes longer."""
        done, _ = await asyncio.wait({future}, timeout=self.within_s if at_most_s is None else at_most_s)
        return future.result() if done else None

    async def _after(self, before: asyncio.Future[Any] | None, function: Callable[[], _T]) -> _T:
        if before is not None:
            await asyncio.wait({before})
        return await self._compute(function)

    async def close(self) -> None:
        """Give up what still runs; a thread that works on it ends by itself."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.wait({running})
            if not running.cancelled():
                running.exception()
