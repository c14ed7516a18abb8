"""Simulates many fleets side by side: one step of numpy per request serves it in all of them.

Fleets are columns, instances rows. The time at which an instance becomes free and its number are packed into one
integer (the bits of a positive float order like the float; the lowest ones hold the number), so that the smallest of a
column names both the time and the instance. All fleets see the same draws unless each is given its own: differences
between fleets are then much better known than the fleets themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clover.core.application import ServiceModel
from clover.core.closed_form import Floats, KindArrays, operating_points
from clover.core.configuration import InstanceKind
from clover.plan.columns import Columns
from clover.plan.simulator import log_normal

SweepRule = Literal["longest_idle", "fastest", "accurate"]

_WARM_UP_PIECES = 4
_PIECE = 500
#: So many fleets are simulated faster one by one.
_FEW_FLEETS = 24
_NEVER = np.float64(np.inf)


class Matrix:
    """The instances of C fleets in work; N is the largest number of instances of a fleet.

    Args:
        instances: Number of instances of each fleet, (C,).
        ranked: Whether an idle instance of lower number is preferred; else the one that has been idle longest.
    """

    def __init__(self, instances: NDArray[np.intp], *, ranked: bool = False) -> None:
        most = int(instances.max())
        self._numbers = np.int64((1 << max(1, (most - 1).bit_length())) - 1)
        free = np.where(np.arange(most)[:, None] < instances, 0.0, _NEVER)
        self._keys = self._packed(free, np.arange(most)[:, None])
        self._columns = np.arange(len(instances))
        self._host = self._gpu = np.zeros(0)
        self._ranks = np.broadcast_to(np.arange(most, dtype=np.int64)[:, None] - most, free.shape) if ranked else None

    def set_times(self, host_s: Floats, gpu_s: Floats) -> None:
        """Set the mean parts of the service time, (N, C); what is beyond a fleet's instances does not matter."""
        self._host, self._gpu = np.ascontiguousarray(host_s).ravel(), np.ascontiguousarray(gpu_s).ravel()

    def serve(self, arrival_s: Floats, host: Floats, gpu: Floats) -> tuple[Floats, NDArray[np.intp]]:
        """Serve requests in order of arrival.

        Args:
            arrival_s: Of each request, (R, C), or (R, 1) if the same in all fleets.
            host: Factor of the host part, in the same shape.
            gpu: Factor of the part on the instance, likewise.

        Returns:
            When each is done, and its instance, both (R, C).
        """
        shape = (len(arrival_s), len(self._columns))
        finish, instance = np.empty(shape), np.empty(shape, dtype=np.intp)
        keys, flat, columns, numbers = self._keys, self._keys.reshape(-1), self._columns, self._numbers
        best, place = np.empty(shape[1], dtype=np.int64), np.empty(shape[1], dtype=np.intp)
        for row in range(shape[0]):
            arrival = arrival_s[row]
            self._best(keys, arrival, best)
            np.bitwise_and(best, numbers, out=instance[row])
            np.multiply(instance[row], shape[1], out=place)
            place += columns
            start = np.maximum((flat[place] & ~numbers).view(np.float64), arrival)
            done = finish[row]
            np.multiply(self._host[place], host[row], out=done)
            done += self._gpu[place] * gpu[row]
            done += start
            flat[place] = self._packed(done, instance[row])
            self._begun(start)
        return finish, instance

    def _begun(self, start_s: Floats) -> None:
        """Be told when the requests of a step began, (C,)."""

    def _best(self, keys: NDArray[np.int64], arrival_s: Floats, out: NDArray[np.int64]) -> None:
        if self._ranks is None:
            np.minimum.reduce(keys, axis=0, out=out)
            return
        # Ranks are negative, so any idle instance goes before all busy ones; its low bits still are its number.
        idle = keys <= (np.atleast_1d(arrival_s).view(np.int64) | self._numbers)
        np.minimum.reduce(np.where(idle, self._ranks, keys), axis=0, out=out)
        np.add(out, len(keys), out=out, where=out < 0)

    def _packed(self, time_s: Floats, number: NDArray[np.intp]) -> NDArray[np.int64]:
        return np.bitwise_or(time_s.view(np.int64) & ~self._numbers, number)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sweep:
    """What was seen of C fleets after the warm-up; all of shape (C,) but `shares`.

    Attributes:
        late_fraction: P(latency > SLA).
        late_error: Its standard error by batch means.
        p95_ms: 95th percentile of latency.
        accuracy_pct: Over all requests.
        dynamic_j: Dynamic energy per request.
        rho: Contention that the service times were drawn with.
        shares: Fraction of the requests by kind, (C, K).
        overloaded: The fleet cannot carry its load: late_fraction 1, p95 inf.
    """

    late_fraction: Floats
    late_error: Floats
    p95_ms: Floats
    accuracy_pct: Floats
    dynamic_j: Floats
    rho: Floats
    shares: Floats
    overloaded: NDArray[np.bool_]


def sweep(
    model: ServiceModel,
    kinds: Sequence[InstanceKind],
    counts: Floats,
    rate_rps: Floats | float,
    *,
    sla_ms: float,
    rule: SweepRule = "longest_idle",
    requests: int = 20_000,
    warm_up: int = 2_000,
    batches: int = 20,
    seed: int | Sequence[int] = 0,
) -> Sweep:
    """Simulate many fleets, each with one node agent.

    Args:
        model: Application and table.
        kinds: Columns of the counts.
        counts: Instances of each fleet, (C, K).
        rate_rps: Poisson arrival rate, one for all or (C,).
        sla_ms: Latency beyond which a request is late.
        rule: How the agent hands out requests.
        requests: How many are looked at.
        warm_up: How many are left out before.
        batches: For the standard error.
        seed: Of arrivals and service times.

    Raises:
        ValueError: A shape is wrong, a fleet has no instance, or a number is not above 0.
    """
    fleets = _Fleets(model, kinds, np.asarray(counts, dtype=np.float64), rate_rps, rule)
    if min(requests, warm_up) < 1 or not 2 <= batches <= requests or not sla_ms > 0:
        raise ValueError(
            f"requests = {requests}, warm_up = {warm_up}, batches = {batches}, sla_ms = {sla_ms}: "
            "expected numbers above 0 and 2 <= batches <= requests"
        )
    rng = np.random.default_rng(seed)
    fleets.warm(rng, warm_up)
    latency_s = np.concatenate([fleets.serve(rng, min(_PIECE, requests - i)) for i in range(0, requests, _PIECE)])
    return fleets.result(latency_s, sla_ms / 1e3, batches)


class _Fleets:
    """State of a sweep."""

    def __init__(
        self,
        model: ServiceModel,
        kinds: Sequence[InstanceKind],
        counts: Floats,
        rate_rps: Floats | float,
        rule: SweepRule,
    ) -> None:
        self._arrays = KindArrays.of(model, kinds)
        if counts.ndim != 2 or counts.shape[1] != len(kinds) or not len(counts):
            raise ValueError(f"counts of shape {counts.shape}: expected (fleets, {len(kinds)})")
        if counts.min() < 0 or counts.sum(axis=1).min() < 1:
            raise ValueError("counts: expected no negative number and at least one instance in every row")
        self._counts = counts
        self._rate = np.broadcast_to(np.asarray(rate_rps, dtype=np.float64), (len(counts),))
        if not (np.isfinite(self._rate).all() and self._rate.min() > 0):
            raise ValueError(f"rate_rps = {self._rate.min()}: expected finite numbers above 0")
        points = operating_points(self._arrays, counts, self._rate)
        self._overloaded = points.overloaded
        self._rule: SweepRule = rule
        kind_of_matrix = Columns if len(counts) <= _FEW_FLEETS else Matrix
        self._matrix = kind_of_matrix(counts.sum(axis=1).astype(np.intp), ranked=rule != "longest_idle")
        self._kind = self._ranked_kinds(points.rho)
        self._now_s = 0.0
        self._tally = np.zeros(counts.shape)
        self._set_rho(points.rho)

    def _ranked_kinds(self, rho: Floats) -> NDArray[np.intp]:
        """Return the kind of each instance, (N, C), in the order in which the rule prefers them."""
        mean = self._arrays.mean_s(rho)
        keys: dict[SweepRule, list[Floats]] = {
            "longest_idle": [np.zeros_like(mean)],
            "fastest": [mean],
            "accurate": [mean, np.zeros_like(mean) - self._arrays.accuracy_pct],
        }
        order: NDArray[np.intp] = np.lexsort(keys[self._rule], axis=1)
        ordered = np.take_along_axis(self._counts, order, axis=1).astype(np.intp)
        most = int(ordered.sum(axis=1).max())
        kinds = np.zeros((most, len(order)), dtype=np.intp)
        for column, (row, repeats) in enumerate(zip(order, ordered, strict=True)):
            numbers = np.repeat(row, repeats)
            kinds[: len(numbers), column] = numbers
        return kinds

    def warm(self, rng: np.random.Generator, requests: int) -> None:
        """Fill the fleets, and bring contention to its fixed point for the rates that the rule really gives."""
        length = -(-requests // _WARM_UP_PIECES)
        for first in range(0, requests, length):
            if first == length:
                self._tally[:] = 0.0
            self.serve(rng, min(length, requests - first))
            self._set_rho(self._contention())
        self._tally[:] = 0.0

    def serve(self, rng: np.random.Generator, requests: int) -> Floats:
        """Serve some more requests; return their latencies in seconds, (requests, C)."""
        gaps = np.cumsum(rng.exponential(1.0, requests))[:, None]
        arrival_s = self._now_s + gaps / self._rate
        host = log_normal(rng, self._arrays.host_sigma, requests)[:, None]
        gpu = log_normal(rng, self._arrays.gpu_sigma, requests)[:, None]
        finish_s, instance = self._matrix.serve(arrival_s, host, gpu)
        self._now_s = arrival_s[-1]
        columns = np.arange(len(self._counts))
        kinds = self._kind[instance, columns]
        cells = kinds + columns * self._counts.shape[1]
        self._tally += np.bincount(cells.ravel(), minlength=self._counts.size).reshape(self._counts.shape)
        return finish_s - arrival_s + self._arrays.beside_s[kinds]

    def result(self, latency_s: Floats, sla_s: float, batches: int) -> Sweep:
        """Return the figures."""
        length = len(latency_s) // batches
        late = (latency_s[: length * batches] > sla_s).reshape(batches, length, -1).mean(axis=1)
        shares = self._tally / self._tally.sum(axis=1, keepdims=True)
        arrays, over = self._arrays, self._overloaded
        p95 = np.quantile(latency_s, 0.95, axis=0, method="inverted_cdf") * 1e3
        return Sweep(
            late_fraction=np.where(over, 1.0, late.mean(axis=0)),
            late_error=np.where(over, 0.0, late.std(axis=0, ddof=1) / np.sqrt(batches)),
            p95_ms=np.where(over, np.inf, p95),
            accuracy_pct=shares @ arrays.accuracy_pct,
            dynamic_j=(shares @ arrays.dynamic_j) * (1.0 - arrays.energy_contention * self._rho),
            rho=self._rho,
            shares=shares,
            overloaded=over,
        )

    def _contention(self) -> Floats:
        """Return rho at its fixed point for the rates seen: n rho = sum of rates x mean service times (Little)."""
        rates = self._tally / self._tally.sum(axis=1, keepdims=True) * self._rate[:, None]
        at_rest = rates @ (self._arrays.host_s + self._arrays.gpu_s)
        spare = self._counts.sum(axis=1) - rates @ (self._arrays.kappa * self._arrays.host_s)
        return np.where((at_rest < spare) & ~self._overloaded, at_rest / np.where(spare > 0, spare, 1.0), 1.0)

    def _set_rho(self, rho: Floats) -> None:
        self._rho = rho
        host = self._arrays.host_s[self._kind] * (1.0 + self._arrays.kappa * rho)
        self._matrix.set_times(host, self._arrays.gpu_s[self._kind])
