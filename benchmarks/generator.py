"""What the generator can do: rate reached and lag, beside a raw asyncio loop on the same schedule in the same run.

Replies are trivial: a bus inside the process answers everything as it is admitted. The raw loop sleeps until each due
time and counts. One JSON line per rate; `rate_ratio` and `lag_ratio` compare the two.

    python benchmarks/generator.py [--rates 500,2000,5000] [--seconds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec

from clover.agents.generator import Generator
from clover.agents.generator_settings import GeneratorSettings
from clover.agents.system_clock import SystemClock
from clover.bus.memory import MemoryBus
from clover.bus.messages import NodeTelemetry, PlanRecord, Reply, Request, RequestRecord
from clover.bus.values import Admission
from clover.core.outcome import Outcome, ProducerOutcome
from clover.core.schedule import Load
from clover.core.tally import Ended, Tally

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support import a_plan, telemetry


class TrivialBus(MemoryBus):
    """Answers each request as it is admitted; its plan is always in force."""

    def __init__(self) -> None:
        clock = SystemClock()
        super().__init__("bench", clock.now_ms)
        self._waiting: list[Reply] = []
        self._news = asyncio.Event()

    async def admit(self, requests: Sequence[Request], *, bound: int) -> list[Admission]:
        """Admit and answer."""
        del bound
        self._waiting += [Reply(id=request.id, outcome=Outcome.OK) for request in requests]
        self._news.set()
        return [Admission.ADMITTED] * len(requests)

    async def replies(self, producer: str, after: str, *, block_s: float) -> tuple[list[Reply], str]:
        """Return what has been answered since."""
        del producer, block_s
        await self._news.wait()
        self._news.clear()
        found, self._waiting = self._waiting, []
        return found, after

    async def known(self, request_ids: Sequence[str]) -> list[bool]:
        """Remember everything."""
        return [True] * len(request_ids)

    async def plan(self) -> PlanRecord | None:
        """Return a plan that is in force."""
        return a_plan(state="serving", epoch=1)

    async def node_states(self) -> dict[str, NodeTelemetry]:
        """Return the one node that carries it out."""
        return {"n1": msgspec.structs.replace(telemetry(), at_ms=time.time() * 1e3 + 1e6)}


def _figures(tally: Tally, cpu_s: float) -> dict[str, float | None]:
    return {
        "rate_rps": tally.rate_rps,
        "lag_p50_ms": tally.lags.quantile_ms(0.5),
        "lag_p99_ms": tally.lags.quantile_ms(0.99),
        "lag_max_ms": tally.max_lag_ms,
        "cpu_us_per_request": 1e6 * cpu_s / max(1, tally.sent),
    }


async def _generator(load: Load, seconds: float) -> dict[str, float | None]:
    tally, clock = Tally(), SystemClock()

    def take(record: RequestRecord) -> None:
        tally.add(
            Ended(
                due_ms=record.due_ms, made_ms=record.due_ms + record.lag_ms, sent_ms=record.sent_ms,
                received_ms=record.received_ms, outcome=record.outcome,
            )
        )  # fmt: skip

    settings = GeneratorSettings(name="bench", application="albert", rate_rps=load.rate_rps, duration_s=seconds)
    generator = Generator(settings, bus=TrivialBus(), clock=clock, rng=Random(1), times_s=load.times_s(1), ended=take)
    began = time.process_time()
    await generator.run(asyncio.Event())
    return _figures(tally, time.process_time() - began)


async def _raw(load: Load, seconds: float) -> dict[str, float | None]:
    tally, clock = Tally(), SystemClock()
    began, begin_s = time.process_time(), clock.now_s()
    for due_s in itertools.takewhile(lambda at: at < seconds, load.times_s(1)):
        wait_s = begin_s + due_s - clock.now_s()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        now_ms, due_ms = clock.now_ms(), (begin_s + due_s) * 1e3
        tally.add(Ended(due_ms=due_ms, made_ms=now_ms, sent_ms=now_ms, received_ms=now_ms, outcome=ProducerOutcome.OK))
    return _figures(tally, time.process_time() - began)


def main() -> None:
    """Run every rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", default="500,2000,5000")
    parser.add_argument("--seconds", type=float, default=5.0)
    told = parser.parse_args()
    for rate in map(float, told.rates.split(",")):
        load = Load(rate_rps=rate)
        raw = asyncio.run(_raw(load, told.seconds))
        ours = asyncio.run(_generator(load, told.seconds))
        ratios = {
            "rate_ratio": (ours["rate_rps"] or 0.0) / (raw["rate_rps"] or 1.0),
            "lag_p99_ratio": (ours["lag_p99_ms"] or 0.0) / (raw["lag_p99_ms"] or 1.0),
        }
        print(json.dumps({"asked_rps": rate, "seconds": told.seconds, "generator": ours, "raw_loop": raw, **ratios}))


if __name__ == "__main__":
    main()
