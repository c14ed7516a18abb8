"""A live source that is asked once over a real socket, at a time that the test sets."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random

from carbon_stub import PLAYS, ZONES, Play, Stub

from clover.carbon.chain import SourceChain
from clover.carbon.registry import make_source
from clover.core.carbon import CarbonIntensity
from clover.core.intensity_trace import constant_trace

#: 2026-01-20T12:10:00Z.
NOW_S = 1_768_911_000.0
#: What a chain falls back on.
LAST = 333.0


class Standing:
    """A clock that a test sets."""

    def __init__(self, at_s: float = NOW_S) -> None:
        self.at_s = at_s

    def now_s(self) -> float:
        return self.at_s

    def now_ms(self) -> float:
        return 1e3 * self.at_s


def truth(at_s: float) -> float:
    return 100.0 + at_s // 300 % 97


def good(name: str) -> Play:
    return PLAYS[name](lambda: NOW_S, truth)


async def _first(chain: SourceChain) -> CarbonIntensity:
    task = asyncio.create_task(chain.run())
    await chain.ready(20.0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return chain.at(NOW_S)


def first_figure(
    name: str, play: Play, *, url: str | None = None, timeout_s: float = 5.0
) -> tuple[CarbonIntensity, Stub, str]:
    """Ask once over a real socket; return the figure, the stub and why the chain says that it is not live."""

    async def main(address: str) -> tuple[CarbonIntensity, str]:
        clock = Standing()
        source = make_source(name, zone=ZONES[name], url=url or address, clock=clock, timeout_s=timeout_s)
        fallback = None if source.traits.kind == "marginal" else constant_trace(LAST)
        chain = SourceChain(source, clock=clock, rng=Random(0), fallback=fallback)
        figure = await _first(chain)
        return figure, chain.fault

    stub = Stub(play)
    with stub.served() as address:
        figure, fault = asyncio.run(main(address))
    return figure, stub, fault
