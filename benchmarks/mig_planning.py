"""Planning and managing MIG: how long it takes, and how much of a GPU a change leaves untouched.

Prints one JSON line for each figure:

- `enumerate`: all partitions of a board, from nothing (median over repetitions, ms).
- `plan_first` and `plan`: one move, the first towards a multiset and every later one (ms, over all 297 x 37 moves of
  an A100; each multiset's layouts are searched once per process).
- `kept`: from the 19 maximal layouts to the 14 maximal multisets, no-ops left out: the mean of kept / present.
- `apply`: planning, recording, 1 to 14 changes and verifying on a simulated GPU that takes no time (ms).

Times are of this machine; `reference_ms` is a loop of plain Python in the same process, to compare machines by, and
`load` the machine's load average.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from mig import partition
from mig.apply import apply
from mig.change import plan_change
from mig.device import GpuInstance
from mig.partition import Partition, layouts, maximal_layouts, maximal_multisets, multisets
from mig.profiles import GPU_MODELS, GpuModel, gpu_model
from mig.simulated import SimulatedGpu
from mig.store import MemoryStore

A100 = gpu_model("a100-40gb")


def timed_ms(body: Callable[[], object]) -> float:
    """Run once and return how long it took, ms."""
    start = time.perf_counter()
    body()
    return (time.perf_counter() - start) * 1e3


def forget() -> None:
    """Empty the caches of enumeration."""
    for cached in (
        partition.layouts,
        partition.multisets,
        partition.maximal_layouts,
        partition.maximal_multisets,
        partition.inclusion_maximal_multisets,
        partition._layouts_of,  # noqa: SLF001 - it is what is measured
    ):
        cached.cache_clear()


def living(layout: Partition) -> tuple[GpuInstance, ...]:
    """Instances in a layout."""
    return tuple(
        GpuInstance(id=index, profile=each.profile, placement=each.placement, uuid=f"MIG-{index}")
        for index, each in enumerate(layout.placed, 1)
    )


def enumerate_board(model: GpuModel, repetitions: int, *, all_profiles: bool) -> dict[str, Any]:
    """Time all partitions of a board from nothing."""

    def once() -> None:
        layouts(model, all_profiles=all_profiles)
        multisets(model, all_profiles=all_profiles)
        maximal_layouts(model, all_profiles=all_profiles)
        maximal_multisets(model, all_profiles=all_profiles)

    times: list[float] = []
    for _ in range(repetitions):
        forget()
        times.append(timed_ms(once))
    return {
        "figure": "enumerate",
        "gpu_model": model.name,
        "all_profiles": all_profiles,
        "layouts": len(layouts(model, all_profiles=all_profiles)),
        "median_ms": statistics.median(times),
        "most_ms": max(times),
    }


def plan_first(repetitions: int) -> dict[str, Any]:
    """Time the first plan towards each multiset, with nothing enumerated before."""
    current = living(maximal_layouts(A100)[1])
    every = multisets(A100)
    times: list[float] = []
    for _ in range(repetitions):
        for wanted in every:
            forget()
            times.append(timed_ms(lambda wanted=wanted: plan_change(A100, current, wanted)))
    return _summary("plan_first", times)


def plan_every_move(repetitions: int) -> dict[str, Any]:
    """Time every move from every layout to every multiset."""
    moves = [(living(layout), wanted) for layout in layouts(A100) for wanted in multisets(A100)]
    for current, wanted in moves:
        plan_change(A100, current, wanted)
    times = [
        timed_ms(lambda current=current, wanted=wanted: plan_change(A100, current, wanted))
        for _ in range(repetitions)
        for current, wanted in moves
    ]
    return {**_summary("plan", times), "moves": len(moves)}


def kept() -> dict[str, Any]:
    """Count how much of a GPU a change between maximal partitions leaves untouched."""
    fractions: list[float] = []
    for before in maximal_layouts(A100):
        current = living(before)
        changes = [plan_change(A100, current, wanted) for wanted in maximal_multisets(A100)]
        fractions += [len(change.keep) / len(current) for change in changes if not change.is_empty]
    return {
        "figure": "kept",
        "pairs": len(fractions),
        "pairs_that_keep_something": sum(fraction > 0 for fraction in fractions),
        "mean_kept_pct": round(100 * statistics.fmean(fractions), 1),
    }


async def apply_between_maximal_partitions() -> dict[str, Any]:
    """Time an apply on a simulated GPU that takes no time."""

    async def no_wait(_delay_s: float) -> None:
        pass

    gpu, store, times = SimulatedGpu(A100, 0, seed=1, sleep=no_wait), MemoryStore(), list[float]()
    for first in maximal_multisets(A100):
        for second in maximal_multisets(A100):
            for wanted in (first, second):
                start = time.perf_counter()
                (await apply(gpu, wanted, store)).raise_if_failed()
                times.append((time.perf_counter() - start) * 1e3)
    return _summary("apply", times)


def reference() -> float:
    """Time a loop of plain Python: 100 000 additions and look-ups, ms."""
    table = {number: number for number in range(1000)}

    def once() -> int:
        total = 0
        for number in range(100_000):
            total += table[number % 1000]
        return total

    return statistics.median(timed_ms(once) for _ in range(9))


def _summary(figure: str, times: Sequence[float]) -> dict[str, Any]:
    return {
        "figure": figure,
        "median_ms": statistics.median(times),
        "p99_ms": statistics.quantiles(times, n=100)[98],
        "most_ms": max(times),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5, help="how often each is measured (default: 5)")
    repetitions = parser.parse_args().repetitions
    context = {"schema": 1, "reference_ms": reference(), "load": os.getloadavg()[0]}
    rows = [
        enumerate_board(model, repetitions, all_profiles=all_profiles)
        for model in GPU_MODELS.values()
        for all_profiles in (False, True)
    ]
    rows += [plan_first(repetitions), plan_every_move(repetitions), kept()]
    rows.append(asyncio.run(apply_between_maximal_partitions()))
    for row in rows:
        print(json.dumps({**context, **row}))


if __name__ == "__main__":
    main()
