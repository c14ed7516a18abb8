"""A few fleets that see the same requests, simulated one by one with heaps: what `clover.plan.sweep` does for many.

A step of numpy costs as much for one fleet as for thirty; a heap costs as much for every fleet.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush, heapreplace

import numpy as np
from numpy.typing import NDArray

from clover.core.closed_form import Floats


class Columns:
    """As `Matrix`, fleet by fleet with heaps: faster for a few fleets; times differ by rounding only."""

    def __init__(self, instances: NDArray[np.intp], *, ranked: bool = False) -> None:
        self._ranked = ranked
        self._idle = [list(range(n)) for n in instances.tolist()]
        self._busy: list[list[tuple[float, int]]] = [[] for _ in self._idle]
        if not ranked:
            # The one that has been idle longest is the top of one heap, idle or not.
            self._busy = [[(0.0, i) for i in idle] for idle in self._idle]
        self._host: Floats = np.zeros((0, 0))
        self._gpu: Floats = self._host

    def set_times(self, host_s: Floats, gpu_s: Floats) -> None:
        """As in `Matrix`."""
        self._host, self._gpu = host_s, gpu_s

    def serve(self, arrival_s: Floats, host: Floats, gpu: Floats) -> tuple[Floats, NDArray[np.intp]]:
        """As in `Matrix`."""
        shape = (len(arrival_s), len(self._busy))
        finish, instance = np.empty(shape), np.empty(shape, dtype=np.intp)
        arrivals, hosts, gpus = (np.broadcast_to(each, shape) for each in (arrival_s, host, gpu))
        serve = self._serve_ranked if self._ranked else self._serve_longest_idle
        for column in range(shape[1]):
            requests = zip(*(each[:, column].tolist() for each in (arrivals, hosts, gpus)), strict=True)
            served = serve(column, requests, self._host[:, column].tolist(), self._gpu[:, column].tolist())
            finish[:, column], instance[:, column] = served
        return finish, instance

    def _serve_longest_idle(
        self, column: int, requests: Iterable[tuple[float, float, float]], host_s: list[float], gpu_s: list[float]
    ) -> tuple[list[float], list[int]]:
        busy, finishes, instances = self._busy[column], list[float](), list[int]()
        for arrival, host, gpu in requests:
            free, i = busy[0]
            finish = (arrival if arrival > free else free) + host * host_s[i] + gpu * gpu_s[i]  # noqa: FURB136 - faster than max()
            heapreplace(busy, (finish, i))
            finishes.append(finish)
            instances.append(i)
        return finishes, instances

    def _serve_ranked(
        self, column: int, requests: Iterable[tuple[float, float, float]], host_s: list[float], gpu_s: list[float]
    ) -> tuple[list[float], list[int]]:
        idle, busy, finishes, instances = self._idle[column], self._busy[column], list[float](), list[int]()
        for arrival, host, gpu in requests:
            while busy and busy[0][0] <= arrival:
                heappush(idle, heappop(busy)[1])
            start, i = (arrival, heappop(idle)) if idle else heappop(busy)
            finish = start + host * host_s[i] + gpu * gpu_s[i]
            heappush(busy, (finish, i))
            finishes.append(finish)
            instances.append(i)
        return finishes, instances
