"""How long work lasts."""

from __future__ import annotations

import asyncio
from typing import Any

from clover.agents.lifetime import until_stopped
from clover.errors import BusUnavailableError
from clover.sim.clock import run_virtual

FOREVER_S = 1e6


def _stopped(work: Any, *, also: asyncio.Event | None = None) -> float:
    """Stop work after a second; return how long it then went on, in virtual seconds."""

    async def main() -> float:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        def now() -> None:
            stop.set()
            if also is not None:
                also.set()

        loop.call_later(1.0, now)
        async with asyncio.timeout(100.0):
            await until_stopped(stop, work())
        return loop.time()

    began: list[float] = []

    async def timed() -> float:
        began.append(asyncio.get_running_loop().time())
        return await main()

    return run_virtual(timed()) - began[0] - 1.0


def test_work_ends_when_it_is_told_to() -> None:
    async def work() -> None:
        await asyncio.sleep(FOREVER_S)

    assert _stopped(work) == 0.0


def test_work_that_overhears_the_first_time_is_told_again() -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(FOREVER_S)
        except asyncio.CancelledError:
            await asyncio.sleep(FOREVER_S)

    assert 0.0 < _stopped(work) < 30.0


def test_work_whose_server_goes_away_in_the_moment_in_which_it_is_stopped_ends() -> None:
    gone = asyncio.Event()

    async def lose() -> None:
        await gone.wait()
        raise BusUnavailableError("gone")

    async def work() -> None:
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(lose())
                    await asyncio.sleep(FOREVER_S)
            except* BusUnavailableError:
                gone.clear()

    assert _stopped(work, also=gone) < 30.0
