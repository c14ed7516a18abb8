"""Replays measured points in the simulator: the original's own arrivals, many draws of the service times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clover.core.application import ServiceModel
from clover.core.closed_form import Floats, KindArrays, operating_points
from clover.core.configuration import FleetCounts, GpuConfiguration
from clover.core.measured import MeasuredPoint
from clover.core.queueing import idle_power_w
from clover.plan.simulator import log_normal
from clover.plan.sweep import Matrix

#: Seed of the original's arrivals (numpy's legacy generator).
ARRIVAL_SEED = 1
#: Busy fraction and service times depend on each other: rounds until the fraction moves by less than this.
_SETTLED = 1e-4
_MOST_ROUNDS = 12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replay:
    """Figures of one point by service seed, each of shape (S,).

    Attributes:
        p95_ms: 95th percentile of latency.
        served_rate_rps: Requests over the time from the start to the last answer.
        accuracy_pct: Over all requests.
        dynamic_j: Dynamic energy per request.
        energy_j_per_request: Idle power of all GPUs included.
        rho: Mean busy fraction of the instances until the last answer.
        shares: Fraction of the requests by kind, (S, K), in the order of `kinds`.
        kinds: What the shares are of.
    """

    p95_ms: Floats
    served_rate_rps: Floats
    accuracy_pct: Floats
    dynamic_j: Floats
    energy_j_per_request: Floats
    rho: Floats
    shares: Floats
    kinds: KindArrays


def original_arrivals_s(point: MeasuredPoint) -> Floats:
    """Return when the original's generator sent its requests: seeded exponential gaps, (requests,)."""
    gaps = np.random.RandomState(ARRIVAL_SEED)
    return np.cumsum(gaps.exponential(point.interarrival_s, point.requests))


def replay(model: ServiceModel, point: MeasuredPoint, *, seeds: int, seed: int | Sequence[int] = 0) -> Replay:
    """Simulate a measured point for several draws of the service times, side by side.

    Args:
        model: Application and table.
        point: What was measured.
        seeds: How many draws (S).
        seed: From which they derive.

    Raises:
        ValueError: `seeds` is below 1, or a variant does not fit on its profile.
    """
    if seeds < 1:
        raise ValueError(f"seeds = {seeds}: expected at least 1")
    kinds = KindArrays.of(model, sorted(set(point.instances)))
    kind = np.array([kinds.kinds.index(k) for k in point.instances] * point.gpus)
    rng = np.random.default_rng(seed)
    arrival_s = original_arrivals_s(point)[:, None]
    host = log_normal(rng, kinds.host_sigma, (point.requests, seeds))
    gpu = log_normal(rng, kinds.gpu_sigma, (point.requests, seeds))
    rho = np.full(seeds, _expected_rho(kinds, kind, point))
    finish_s, instance = arrival_s, np.zeros((point.requests, seeds), dtype=np.intp)
    for _ in range(_MOST_ROUNDS):
        fleet = Matrix(np.full(seeds, len(kind)))
        host_s = kinds.host_s[kind][:, None] * (1.0 + kinds.kappa * rho)
        fleet.set_times(host_s, np.tile(kinds.gpu_s[kind][:, None], (1, seeds)))
        finish_s, instance = fleet.serve(arrival_s, host, gpu)
        work_s = np.take_along_axis(host_s, instance, axis=0) * host + kinds.gpu_s[kind][instance] * gpu
        before, rho = rho, np.minimum(work_s.sum(axis=0) / finish_s.max(axis=0) / len(kind), 1.0)
        if np.abs(rho - before).max() < _SETTLED:
            break
    return _figures(model, point, kinds, rho, latency_s=finish_s - arrival_s, finish_s=finish_s, chosen=kind[instance])


def _expected_rho(kinds: KindArrays, kind: np.ndarray[tuple[int], np.dtype[np.intp]], point: MeasuredPoint) -> float:
    counts = np.bincount(kind, minlength=len(kinds.kinds)).astype(np.float64)[None, :]
    return float(operating_points(kinds, counts, np.array([1.0 / point.interarrival_s])).rho[0])


def _figures(
    model: ServiceModel,
    point: MeasuredPoint,
    kinds: KindArrays,
    rho: Floats,
    *,
    latency_s: Floats,
    finish_s: Floats,
    chosen: np.ndarray[tuple[int, int], np.dtype[np.intp]],
) -> Replay:
    served = point.requests / finish_s.max(axis=0)
    shares = np.stack([(chosen == k).mean(axis=0) for k in range(len(kinds.kinds))], axis=1)
    dynamic = (shares @ kinds.dynamic_j) * (1.0 - kinds.energy_contention * rho)
    idle_w = idle_power_w(model, FleetCounts.uniform(GpuConfiguration(point.instances), point.gpus))
    return Replay(
        p95_ms=np.quantile(latency_s, 0.95, axis=0, method="inverted_cdf") * 1e3,
        served_rate_rps=served,
        accuracy_pct=shares @ kinds.accuracy_pct,
        dynamic_j=dynamic,
        energy_j_per_request=dynamic + idle_w / served,
        rho=rho,
        shares=shares,
        kinds=kinds,
    )
