"""Fleets whose most accurate idle instance takes the next request, the others what is left over (rule `accurate`).

Nobody waits while an instance is idle, and small instances beside large ones keep contention low: with few GPUs this
often serves more accurately than fixed shares. What a fleet would do is estimated here for all fleets at once, by
Erlang's B from one variant to the next; `clover.plan.accurate_search` simulates the best of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clover.core.closed_form import Floats, KindArrays
from clover.core.queueing import FleetSearch

_ROUNDS = 5
#: Of those that wait, this part is counted late in the estimate.
_WAITERS_LATE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Estimate:
    """What fleets would do under `accurate`, all of shape (C,)."""

    accuracy_pct: Floats
    dynamic_j: Floats
    late_fraction: Floats


def erlang_b(servers: Floats, offered: Floats) -> Floats:
    """Return the fraction that is turned away by so many servers (Erlang 1917), 1 if there is none, (C,)."""
    blocked = np.ones(len(servers))
    for number in range(1, int(servers.max(initial=0.0)) + 1):
        more = offered * blocked / (number + offered * blocked)
        blocked = np.where(number <= servers, more, blocked)
    return blocked


def estimate(search: FleetSearch, counts: Floats, rate_rps: float) -> Estimate:
    """Estimate fleets under `accurate`, (C, K); what a variant turns away goes to the next less accurate one."""
    arrays = search.arrays
    rho = np.full(len(counts), 0.3)
    rates, turned_away = np.zeros_like(counts), np.zeros(len(counts))
    for _ in range(_ROUNDS):
        service = arrays.mean_s(rho)
        rates, turned_away = _overflow(arrays, counts, counts / service, rate_rps)
        rho = np.minimum((rates * service).sum(axis=1) / counts.sum(axis=1), 1.0)
    shares = rates / rates.sum(axis=1, keepdims=True)
    late = (shares * search.late_service(rho)).sum(axis=1) + _WAITERS_LATE * turned_away / rate_rps
    overloaded = (counts / arrays.mean_s(np.ones(len(counts)))).sum(axis=1) <= rate_rps
    return Estimate(
        accuracy_pct=shares @ arrays.accuracy_pct,
        dynamic_j=(shares @ arrays.dynamic_j) * (1.0 - arrays.energy_contention * rho),
        late_fraction=np.where(overloaded, 1.0, late),
    )


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
            servers, most = servers + counts[:, kind], most + full[:, kind]
            so_far = left * (1.0 - erlang_b(servers, left * servers / np.maximum(most, 1e-12)))
            rates[:, kind] = np.minimum(np.maximum(so_far - taken, 0.0), full[:, kind])
            taken = taken + rates[:, kind]
        left = left - taken
    # Those that wait are served by whoever is free first.
    spare = np.maximum(full - rates, 0.0)
    total = np.maximum(spare.sum(axis=1), 1e-12)
    return rates + spare * (left / total)[:, None], left
