"""Lets requests become due: on a schedule that nothing can delay, or one per user as the one before has ended."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from random import Random

from clover.agents.lifetime import happens_within
from clover.core.clock import Clock

#: So many requests in a row that are due already, and the others in this process get their turn.
_IN_A_ROW = 64


def poisson_times_s(rate_rps: float, rng: Random) -> Iterator[float]:
    """Return Poisson arrivals without end, in seconds from the beginning."""
    return itertools.accumulate(rng.expovariate(rate_rps) for _ in itertools.count())


class Schedule:
    """When requests become due.

    Args:
        clock: Wall time.
        times_s: Of an open loop, rising, in seconds from the beginning.
        begin_ms: When that is; None for at once.
        warmup_s, duration_s: They become due for so long together; None for ever.
        count: How many become due after the warm-up at most.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        times_s: Iterator[float],
        begin_ms: float | None,
        warmup_s: float,
        duration_s: float | None,
        count: int | None,
    ) -> None:
        self._clock = clock
        self._times_s = times_s
        self._begin_ms = begin_ms
        self._warmup_s = warmup_s
        self._duration_s = duration_s
        self._count = count
        self._counted = 0
        self._make_due: Callable[[float], None] | None = None
        self._enough = asyncio.Event()
        #: When the arrivals began, None before that.
        self.begun_ms: float | None = None

    async def run(self, stop: asyncio.Event, make_due: Callable[[float], None], *, users: int = 0) -> None:
        """Let requests become due until the time is over, the count is reached, or `stop` is set.

        Args:
            stop: Ends it.
            make_due: Takes the due time of each in ms since the epoch.
            users: Of a closed loop; 0 for an open one.
        """
        begin_s = self._clock.now_s() if self._begin_ms is None else self._begin_ms / 1e3
        if await self._wait_until(begin_s, stop):
            return
        self.begun_ms = begin_s * 1e3
        if users:
            await self._closed(stop, make_due, users, begin_s)
        else:
            await self._open(stop, make_due, begin_s)

    def one_ended(self) -> None:
        """Tell that a request has ended: in a closed loop its user sends the next one."""
        if self._make_due is not None:
            self._next(self._clock.now_s())

    # --- open loop

    async def _open(self, stop: asyncio.Event, make_due: Callable[[float], None], begin_s: float) -> None:
        end_s = self._end_s(begin_s)
        in_a_row = 0
        for offset_s in self._times_s:
            due_s = begin_s + offset_s
            in_a_row += 1
            if due_s > self._clock.now_s() or in_a_row >= _IN_A_ROW:
                in_a_row = 0
                if await self._wait_until(min(due_s, end_s), stop):
                    return
            if due_s >= end_s or stop.is_set() or not self._may_be_due(due_s):
                return
            make_due(due_s * 1e3)
        # A trace that is over ends the load, not before its time.

    # --- closed loop

    async def _closed(self, stop: asyncio.Event, make_due: Callable[[float], None], users: int, begin_s: float) -> None:
        self._make_due = make_due
        try:
            for _ in range(users):
                self._next(self._clock.now_s())
            async with asyncio.TaskGroup() as group:
                waits = [group.create_task(stop.wait()), group.create_task(self._enough.wait())]
                left_s = self._end_s(begin_s) - self._clock.now_s()
                await asyncio.wait(
                    waits, timeout=None if left_s == float("inf") else left_s, return_when=asyncio.FIRST_COMPLETED
                )
                for wait in waits:
                    wait.cancel()
        finally:
            self._make_due = None

    def _next(self, now_s: float) -> None:
        if self._make_due is None:
            return
        if self._may_be_due(now_s):
            self._make_due(now_s * 1e3)
        else:
            self._enough.set()

    # --- both

    def _end_s(self, begin_s: float) -> float:
        return float("inf") if self._duration_s is None else begin_s + self._warmup_s + self._duration_s

    def _may_be_due(self, due_s: float) -> bool:
        """Count a request that is due after the warm-up; False if there have been enough."""
        if self._count is None or due_s < (self.begun_ms or 0.0) / 1e3 + self._warmup_s:
            return True
        self._counted += 1
        return self._counted <= self._count

    async def _wait_until(self, when_s: float, stop: asyncio.Event) -> bool:
        """Wait until a moment, at least for one turn of the loop; True if `stop` was set before."""
        wait_s = when_s - self._clock.now_s()
        if wait_s > 0.0:
            return await happens_within(stop, wait_s)
        await asyncio.sleep(0)
        return stop.is_set()
