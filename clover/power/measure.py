"""Measures the mean power of a GPU that is left alone: differences of its energy counter over a window.

A counter is fed by samples that cover a part of the time only (a quarter on an A100: arXiv 2312.02741), so a window
should be tens of seconds; the spread of its parts says how steady it was.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from clover.core.clock import Clock
from clover.errors import NodeError
from clover.power.counter import CounterTracker
from clover.power.port import GpuMeter


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How to measure: wait `settle_s`, then read for `window_s`, every `period_s`."""

    settle_s: float = 5.0
    window_s: float = 30.0
    period_s: float = 1.0

    def __post_init__(self) -> None:
        if self.settle_s < 0.0 or not 0.0 < self.period_s <= self.window_s:
            raise ValueError(f"window {self}: expected settle_s >= 0 and 0 < period_s <= window_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanPower:
    """Mean power over a window.

    Attributes:
        power_w: All joules over all seconds.
        spread_w: Standard deviation of the power between readings.
        seconds: Length of the window.
        readings: Answers of the meter.
        unknown: Times when it did not answer.
        source: Of the joules.
    """

    power_w: float
    spread_w: float
    seconds: float
    readings: int
    unknown: int
    source: str


async def mean_power(
    meter: GpuMeter, clock: Clock, window: Window, *, sleep: Callable[[float], Awaitable[None]]
) -> MeanPower:
    """Measure; nobody else may use the GPU meanwhile.

    Raises:
        NodeError: The meter did not answer at the beginning and at least once more, or its counter began anew.
    """
    await sleep(window.settle_s)
    tracker = CounterTracker()
    taken: list[tuple[float, float]] = []
    unknown, since_s = 0, 0.0
    for number in range(round(window.window_s / window.period_s) + 1):
        if number:
            await sleep(window.period_s)
        counter_j = await meter.read_j()
        now_s = clock.now_s()
        if counter_j is None:
            unknown += 1
            continue
        advance = tracker.advance(counter_j)
        if advance is not None and advance.reset:
            raise NodeError(f"the energy counter fell to {counter_j:g} J: the driver was loaded anew meanwhile")
        if advance is not None and now_s > since_s:
            taken.append((advance.energy_j, now_s - since_s))
        since_s = now_s
    if not taken:
        raise NodeError(
            "the energy counter gave no two readings: expected a GPU that counts its energy (Volta or later)"
        )
    powers = [energy_j / seconds for energy_j, seconds in taken]
    seconds = sum(each for _, each in taken)
    return MeanPower(
        power_w=sum(energy_j for energy_j, _ in taken) / seconds,
        spread_w=statistics.stdev(powers) if len(powers) > 1 else 0.0,
        seconds=seconds,
        readings=len(taken) + 1,
        unknown=unknown,
        source=meter.source,
    )
