"""What the simulator asks of its loops, and the simplest of them: one node agent, longest-idle, requests all alike.

An engine is given requests in order of arrival, piece by piece, and says which instance serves each and when it is
done. All engines follow `clover.core.dispatch.choose` exactly (held by tests/property/test_simulator.py), without
calling it: it would be asked a few hundred thousand times for one certificate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapreplace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clover.core.closed_form import Floats

Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """A piece of the traffic, in order of arrival; all of shape (R,).

    Attributes:
        first: Number of the first request.
        arrival_s: When they arrive.
        host, gpu: Factors with mean 1 by which the two parts of their service time differ from the mean.
        part: Index of their class.
    """

    first: int
    arrival_s: Floats
    host: Floats
    gpu: Floats
    part: Indices


@dataclass(frozen=True, slots=True, eq=False)
class Begun:
    """Requests whose service has begun, in that order: number, when it ends, and the instance; all of shape (B,)."""

    number: Indices
    finish_s: Floats
    instance: Indices


class Engine(Protocol):
    """Hands requests to instances."""

    def set_times(self, host_s: Sequence[float], gpu_s: Sequence[float]) -> None:
        """Set the mean parts of the service time by instance, from now on."""
        ...

    def run(self, requests: Requests) -> Begun:
        """Take the next requests; return those that have begun."""
        ...

    def drain(self) -> Begun:
        """Let all that still wait begin."""
        ...


def nothing_begun() -> Begun:
    """Return an empty result."""
    return Begun(np.empty(0, dtype=np.intp), np.empty(0), np.empty(0, dtype=np.intp))


class LongestIdleEngine:
    """One heap over the times at which instances become free: its top is the next one, idle or not.

    Args:
        instances: Their number; they are numbered from 0.
    """

    def __init__(self, instances: int) -> None:
        self._heap = [(0.0, i) for i in range(instances)]
        self._host: list[float] = []
        self._gpu: list[float] = []

    def set_times(self, host_s: Sequence[float], gpu_s: Sequence[float]) -> None:
        """Set the mean parts of the service time by instance, from now on."""
        self._host, self._gpu = list(host_s), list(gpu_s)

    def run(self, requests: Requests) -> Begun:
        """Take the next requests; all of them begin."""
        heap, host_s, gpu_s = self._heap, self._host, self._gpu
        finishes: list[float] = []
        instances: list[int] = []
        add_finish, add_instance = finishes.append, instances.append
        for arrival, host, gpu in zip(
            requests.arrival_s.tolist(), requests.host.tolist(), requests.gpu.tolist(), strict=True
        ):
            free, i = heap[0]
            finish = (arrival if arrival > free else free) + host * host_s[i] + gpu * gpu_s[i]  # noqa: FURB136 - faster than max()
            heapreplace(heap, (finish, i))
            add_finish(finish)
            add_instance(i)
        return in_order(requests.first, finishes, instances)

    def drain(self) -> Begun:
        """Return nothing: nobody is left waiting."""
        return nothing_begun()


def in_order(first: int, finishes: list[float], instances: list[int]) -> Begun:
    """Return requests that began in the order of their numbers."""
    numbers = np.arange(first, first + len(finishes))
    return Begun(numbers, np.array(finishes, dtype=np.float64), np.array(instances, dtype=np.intp))
