"""Fleets whose most accurate idle instance takes the next request, the others what is left over (rule `accurate`).

Nobody waits while an instance is idle, and small instances beside large ones keep contention low: with few GPUs this
often serves more accurately than fixed shares. What a fleet would do is estimated here for all fleets at once, by
Erlang's B from one variant to the next; `clover.plan.accurate_search` simulates the best of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clover.core.closed_form import Floats, KindArrays
from clover.core.queueing import FleetSearch

#: Steps to the fixed point of contention, and those after which hopeless fleets are told.
_ROUNDS, _FIRST_ROUNDS = 5, 2
_ROWS = 4_096
#: Of those that wait, this part is counted late in the estimate.
_WAITERS_LATE = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """What fleets would do under `accurate`, all of shape (C,)."""

    accuracy_pct: Floats
    dynamic_j: Floats
    late_fraction: Floats

    def put(self, rows: NDArray[np.intp], found: Estimate) -> None:
        """Write what was found of some fleets into these."""
        self.accuracy_pct[rows] = found.accuracy_pct
        self.dynamic_j[rows] = found.dynamic_j
        self.late_fraction[rows] = found.late_fraction


def erlang_b(servers: Floats, offered: Floats) -> Floats:
    """Return the fraction that is turned away by so many servers (Erlang 1917), 1 if there is none, (C,)."""
    blocked = np.ones(len(servers))
    for number in range(1, int(servers.max(initial=0.0)) + 1):
        more = offered * blocked / (number + offered * blocked)
        blocked = np.where(number <= servers, more, blocked)
    return blocked


def estimate(search: FleetSearch, counts: Floats, rate_rps: float, *, worth_late: float = 1.0) -> Estimate:
    """Estimate fleets under `accurate`, (C, K); what a variant turns away goes to the next less accurate one.

    Args:
        search: Closed form of the kinds.
        counts: Instances by kind.
        rate_rps: Arrival rate.
        worth_late: What is later than this after a few rounds to the fixed point of contention stays as it is then.
    """
    result = Estimate(*np.empty((3, len(counts))))
    # In pieces that the processor's cache holds.
    for first in range(0, len(counts), _ROWS):
        rows = np.arange(first, min(first + _ROWS, len(counts)))
        rho = np.full(len(rows), 0.3)
        for rounds in (_FIRST_ROUNDS, _ROUNDS - _FIRST_ROUNDS):
            found, rho = _estimate(search, counts[rows], rate_rps, rho, rounds)
            result.put(rows, found)
            worth = found.late_fraction <= worth_late
            rows, rho = rows[worth], rho[worth]
            if not len(rows):
                break
    return result


def best_served(arrays: KindArrays, counts: Floats, rate_rps: float, worth: Floats) -> Floats:
    """Return the highest mean worth of a request that fleets can reach, (C,), if a kind is worth so much, (K,).

    No estimate of a fleet that carries its load exceeds it: services only become slower with contention, so that a
    request is worth most if the kinds fill up at rest, the best first (a fractional knapsack: Dantzig 1957). What
    nobody can serve is counted like the least worth.
    """
    left = np.full(len(counts), float(rate_rps))
    total = np.zeros(len(counts))
    full_rps = 1.0 / arrays.mean_s(np.zeros(1))[0]
    for kind in np.argsort(-worth, kind="stable"):
        taken = np.minimum(counts[:, kind] * full_rps[kind], left)
        total += taken * worth[kind]
        left -= taken
    return (total + left * worth.min()) / rate_rps


def _estimate(
    search: FleetSearch, counts: Floats, rate_rps: float, rho: Floats, rounds: int
) -> tuple[Estimate, Floats]:
    """Go some rounds from a contention towards its fixed point; return what is there, and the contention."""
    arrays = search.arrays
    rates, turned_away = np.zeros_like(counts), np.zeros(len(counts))
    for _ in range(rounds):
        service = arrays.mean_s(rho)
        rates, turned_away = _overflow(arrays, counts, counts / service, rate_rps)
        rho = np.minimum((rates * service).sum(axis=1) / counts.sum(axis=1), 1.0)
    shares = rates / rates.sum(axis=1, keepdims=True)
    late = (shares * search.late_service(rho)).sum(axis=1) + _WAITERS_LATE * turned_away / rate_rps
    overloaded = (counts / arrays.mean_s(np.ones(len(counts)))).sum(axis=1) <= rate_rps
    found = Estimate(
        accuracy_pct=shares @ arrays.accuracy_pct,
        dynamic_j=(shares @ arrays.dynamic_j) * (1.0 - arrays.energy_contention * rho),
        late_fraction=np.where(overloaded, 1.0, late),
    )
    return found, rho


def _overflow(arrays: KindArrays, counts: Floats, full: Floats, rate_rps: float) -> tuple[Floats, Floats]:
    """Return requests/s by kind, (C, K), and those that find everybody busy, (C,)."""
    left = np.full(len(counts), rate_rps)
    rates = np.zeros_like(counts)
    mean_s = arrays.host_s + arrays.gpu_s
    for accuracy in np.unique(arrays.accuracy_pct)[::-1]:
        own = np.flatnonzero(arrays.accuracy_pct == accuracy)
        servers, most, taken = np.zeros(len(counts)), np.zeros(len(counts)), np.zeros(len(counts))
        # Among those that are as accurate the fastest goes first.
        for kind in own[np.argsort(mean_s[own], kind="stable")]:
            (rows,) = np.nonzero(counts[:, kind])
            servers[rows] += counts[rows, kind]
            most[rows] += full[rows, kind]
            n, wanted = servers[rows], left[rows]
            so_far = wanted * (1.0 - erlang_b(n, wanted * n / np.maximum(most[rows], 1e-12)))
            rates[rows, kind] = np.minimum(np.maximum(so_far - taken[rows], 0.0), full[rows, kind])
            taken[rows] += rates[rows, kind]
        left = left - taken
    # Those that wait are served by whoever is free first.
    spare = np.maximum(full - rates, 0.0)
    total = np.maximum(spare.sum(axis=1), 1e-12)
    return rates + spare * (left / total)[:, None], left
