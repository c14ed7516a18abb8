"""The formulas of the performance model for many fleets at once: one definition for a single fleet and for a search.

Arrays: C fleets (rows) by K kinds of instances (columns). Times are in seconds inside this module.

* Shares. Under longest-idle dispatch every instance has the same mean idle time I, so an instance of kind k serves
  1 / (S_k + I) requests per second, and sum n_k / (S_k + I) = rate determines I.
* Contention. S_k = host_k (1 + kappa rho) + gpu_k with rho the mean busy fraction of the n live instances. Busy and
  idle time fill an instance's life, so sum n_k S_k / (S_k + I) = n - rate I, which is I = n (1 - rho) / rate: the fixed
  point is the root of one function of rho.
* Waiting. Erlang C for n servers with the pooled service rate mu gives P(wait); W given wait is exponential with mean
  (1 + cv^2) / 2 / (mu - rate), the usual two-moment correction of M/M/n towards M/G/n (Lee and Longton; Whitt 1993).
  While all are busy, departures are a superposition of the servers' own renewal processes, so cv^2 is the mean of
  theirs weighted by rate (asymptotic method, Whitt 1982); that kinds differ in their means does not count.
* Latency. G(t) = P(S > t) mixes the kinds by their shares. S is the sum of two log-normal parts, the one that varies
  more is integrated analytically, the other at Gauss-Hermite nodes, and of what a request takes beside, a constant. For
  an exponential W of mean theta,
  E[G(t - W)] = G(t) + integral of -G'(t - w) exp(-w / theta) dw over 0..t, exact for G linear between grid points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clover.core.application import ServiceModel
from clover.core.configuration import InstanceKind

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

#: Steps from 0 to t between which G(t - w) is taken as linear.
WAIT_STEPS = 64
#: Newton steps to the fixed point of contention; with the shipped tables 8 agree with bisection to 1e-11.
_NEWTON_STEPS, _NEWTON_ENDS = 8, 1e-8
_QUANTILE_STEPS = 60
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(18)
_NODE_WEIGHTS = _WEIGHTS / math.sqrt(2.0 * math.pi)
_ERLANG_CELLS = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KindArrays:
    """What the table says of some kinds, as arrays of shape (K,).

    Attributes:
        kinds: In the order of the arrays.
        host_s, gpu_s: Mean parts of the service time at rho = 0, in seconds.
        accuracy_pct: Of the variant.
        dynamic_j: Dynamic energy of one request at rho = 0, in J.
        host_sigma, gpu_sigma: Standard deviations of the logarithms.
        beside_s: Constant part of the latency that occupies no instance (`ServiceModel.beside_ms`).
        kappa: Relative growth of the host part at rho = 1.
        energy_contention: Relative fall of dynamic energy at rho = 1.
    """

    kinds: tuple[InstanceKind, ...]
    host_s: Floats
    gpu_s: Floats
    accuracy_pct: Floats
    dynamic_j: Floats
    beside_s: Floats
    host_sigma: float
    gpu_sigma: float
    kappa: float
    energy_contention: float

    @staticmethod
    def of(model: ServiceModel, kinds: Sequence[InstanceKind]) -> KindArrays:
        """Read the table.

        Raises:
            ValueError: A variant is unknown or does not fit on its profile, or a kind is there twice.
        """
        for kind in kinds:
            model.application.variant(kind.variant)
            if not model.fits(kind.variant, kind.profile):
                raise ValueError(f"variant {kind.variant} does not fit on {kind.profile} of {model.table.gpu_model}")
        if len(set(kinds)) != len(kinds):
            raise ValueError(f"kinds {[str(kind) for kind in kinds]}: expected each only once")
        return KindArrays(
            kinds=tuple(kinds),
            host_s=np.array([model.host_ms(k.variant, 0.0) for k in kinds]) / 1e3,
            gpu_s=np.array([model.gpu_ms(k.variant, k.profile) for k in kinds]) / 1e3,
            accuracy_pct=np.array([model.application.variant(k.variant).accuracy_pct for k in kinds]),
            dynamic_j=np.array([model.dynamic_j(k.variant, 0.0) for k in kinds]),
            beside_s=np.array([model.beside_ms(k.variant, k.profile) for k in kinds]) / 1e3,
            host_sigma=model.table.host_lognormal_sigma,
            gpu_sigma=model.table.gpu_lognormal_sigma,
            kappa=model.table.host_contention,
            energy_contention=model.table.energy_contention,
        )

    def mean_s(self, rho: Floats) -> Floats:
        """Return mean service times of shape (C, K) for busy fractions of shape (C,)."""
        return self.host_s * (1.0 + self.kappa * rho[:, None]) + self.gpu_s

    def variance_s2(self, rho: Floats) -> Floats:
        """Return the variances of the service times, (C, K)."""
        host = self.host_s * (1.0 + self.kappa * rho[:, None])
        return host**2 * math.expm1(self.host_sigma**2) + self.gpu_s**2 * math.expm1(self.gpu_sigma**2)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OperatingPoints:
    """Fleets at the fixed point of contention.

    Attributes:
        counts: Instances, (C, K).
        rate_rps: Arrival rate, (C,).
        rho: Mean busy fraction of the instances, (C,); 1 if overloaded.
        rates: Served requests/s by kind, (C, K).
        overloaded: Whether the fleet cannot carry the load, (C,).
    """

    counts: Floats
    rate_rps: Floats
    rho: Floats
    rates: Floats
    overloaded: Booleans

    @property
    def served_rps(self) -> Floats:
        """Served requests/s, (C,)."""
        return self.rates.sum(axis=1)

    @property
    def shares(self) -> Floats:
        """Fraction of the served requests by kind, (C, K)."""
        return self.rates / self.rates.sum(axis=1, keepdims=True)


def operating_points(arrays: KindArrays, counts: Floats, rate_rps: Floats) -> OperatingPoints:
    """Solve shares and contention; every row must have an instance, every rate be above 0."""
    full = counts / arrays.mean_s(np.ones(len(counts)))
    overloaded = full.sum(axis=1) <= rate_rps
    idle_at_rest = counts.sum(axis=1) / rate_rps
    growth = arrays.host_s * arrays.kappa
    rho = np.ones(len(counts))
    for _ in range(_NEWTON_STEPS):
        # The reciprocal of what is served is concave in rho, so that Newton's steps from 1 come down to the root from
        # above; with one kind it is a straight line. Once there, further steps stay.
        below = 1.0 / (arrays.mean_s(rho) + ((1.0 - rho) * idle_at_rest)[:, None])
        rates = counts * below
        served = rates.sum(axis=1)
        slope = (rates * below * (idle_at_rest[:, None] - growth)).sum(axis=1)
        step = np.where(overloaded, 0.0, (served / rate_rps - 1.0) * served / np.where(slope > 0.0, slope, np.inf))
        rho = np.clip(rho - step, 0.0, 1.0)
        # Newton's error is squared from step to step.
        if np.abs(step).max(initial=0.0) < _NEWTON_ENDS:
            break
    rates = _rates(arrays, counts, rho, idle_at_rest)
    return OperatingPoints(counts=counts, rate_rps=rate_rps, rho=rho, rates=rates, overloaded=overloaded)


def _rates(arrays: KindArrays, counts: Floats, rho: Floats, idle_at_rest: Floats) -> Floats:
    return counts / (arrays.mean_s(rho) + ((1.0 - rho) * idle_at_rest)[:, None])


def mean_accuracy_pct(arrays: KindArrays, points: OperatingPoints) -> Floats:
    """Return the accuracy over served requests, (C,)."""
    return points.shares @ arrays.accuracy_pct


def mean_dynamic_j(arrays: KindArrays, points: OperatingPoints) -> Floats:
    """Return the dynamic energy per served request in J, (C,)."""
    return (points.shares @ arrays.dynamic_j) * (1.0 - arrays.energy_contention * points.rho)


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """P(wait) and the mean of an exponential wait in seconds, both (C,); (1, inf) if overloaded."""

    probability: Floats
    mean_s: Floats


def waiting(arrays: KindArrays, points: OperatingPoints) -> Waiting:
    """Return how long requests wait."""
    service = arrays.mean_s(points.rho)
    servers = points.counts.sum(axis=1)
    full = points.counts / service
    pooled = full.sum(axis=1)
    cv2 = (full * arrays.variance_s2(points.rho) / service**2).sum(axis=1) / pooled
    spare = np.where(points.overloaded, 1.0, np.maximum(pooled - points.rate_rps, 1e-12))
    busy = np.where(points.overloaded, 0.5, np.minimum(points.rate_rps / pooled, 1.0 - 1e-12))
    probability = np.where(points.overloaded, 1.0, erlang_c(servers, servers * busy))
    return Waiting(probability, np.where(points.overloaded, np.inf, (1.0 + cv2) / 2.0 / spare))


def erlang_c(servers: Floats, offered: Floats) -> Floats:
    """Return the probability that an arrival has to wait (Erlang 1917), (C,).

    1 / B = sum over j of prod_{i < j} (n - i) / a gives Erlang's B without a factorial; C = B / (1 - u (1 - B)).

    Args:
        servers: Whole numbers n >= 1, (C,).
        offered: Offered load a < n, (C,).
    """
    longest = int(servers.max(initial=1.0))
    rows = max(1, _ERLANG_CELLS // longest)
    steps = np.arange(longest)
    blocking = np.empty(len(servers))
    for first in range(0, len(servers), rows):
        part = slice(first, first + rows)
        factors = np.maximum(servers[part, None] - steps, 0.0) / offered[part, None]
        # Beyond the range of floats the chance to be blocked is 0 for every purpose.
        with np.errstate(over="ignore", invalid="ignore"):
            products = np.nan_to_num(np.cumprod(factors, axis=1), nan=np.inf, posinf=np.inf)
            blocking[part] = 1.0 / (1.0 + products.sum(axis=1))
    return blocking / (1.0 - offered / servers * (1.0 - blocking))


def service_tail(arrays: KindArrays, kind: NDArray[np.intp], rho: Floats, t_s: Floats) -> Floats:
    """Return P(S > t) of shape (P, T) for P pairs of a kind and a rho, at times of shape (P, T).

    S is the latency of a request that does not wait: its service and what it takes beside.
    """
    host, gpu = np.maximum(arrays.host_s[kind] * (1.0 + arrays.kappa * rho), 1e-12), arrays.gpu_s[kind]
    host_sigma, gpu_sigma = max(arrays.host_sigma, 1e-9), max(arrays.gpu_sigma, 1e-9)
    swap = integrates_gpu(arrays, kind, rho)
    mean, sigma = np.where(swap, gpu, host), np.where(swap, gpu_sigma, host_sigma)[:, None, None]
    other, other_sigma = np.where(swap, host, gpu), np.where(swap, host_sigma, gpu_sigma)[:, None]
    # A log-normal with mean 1 has mu = -sigma^2 / 2.
    nodes = other[:, None] * np.exp(other_sigma * _NODES - other_sigma**2 / 2.0)
    left = (t_s - arrays.beside_s[kind][:, None])[:, :, None] - nodes[:, None, :]
    score = (np.log(np.maximum(left, 1e-12)) - np.log(mean)[:, None, None]) / sigma + sigma / 2.0
    return np.where(left <= 0.0, 1.0, _normal_tail(score)) @ _NODE_WEIGHTS


def integrates_gpu(arrays: KindArrays, kind: NDArray[np.intp], rho: Floats) -> Booleans:
    """Return for which pairs of a kind and a rho `service_tail` integrates the part on the instance, (P,).

    The part that varies more is integrated analytically: what is left to the nodes is then smooth.
    """
    host, gpu = arrays.host_s[kind] * (1.0 + arrays.kappa * rho), arrays.gpu_s[kind]
    return gpu * math.sqrt(math.expm1(arrays.gpu_sigma**2)) > host * math.sqrt(math.expm1(arrays.host_sigma**2))


def wait_weights(t_s: Floats, waits: Waiting) -> Floats:
    """Return weights of shape (C, WAIT_STEPS) of the rises of G(t - w) from step to step, w = 0 first."""
    step = (t_s / WAIT_STEPS)[:, None]
    mean = np.maximum(waits.mean_s, 1e-12)[:, None]
    with np.errstate(under="ignore"):
        beyond = np.exp(-step * np.arange(WAIT_STEPS + 1) / mean)
    return waits.probability[:, None] * mean / step * (beyond[:, :-1] - beyond[:, 1:])


def latency_tail(arrays: KindArrays, points: OperatingPoints, waits: Waiting, t_s: Floats) -> Floats:
    """Return P(W + S > t) of shape (C,) at one time per fleet; 1 if overloaded."""
    mixed = np.zeros((len(t_s), WAIT_STEPS + 1))
    rows, kinds = np.nonzero(points.counts)
    times = t_s[:, None] * (1.0 - np.arange(WAIT_STEPS + 1) / WAIT_STEPS)
    tails = service_tail(arrays, kinds, points.rho[rows], times[rows])
    np.add.at(mixed, rows, points.shares[rows, kinds][:, None] * tails)
    return mix_waiting(mixed, points, waits, t_s)


def mix_waiting(mixed: Floats, points: OperatingPoints, waits: Waiting, t_s: Floats) -> Floats:
    """Return P(W + S > t) from G(t - w) at the steps, (C, WAIT_STEPS + 1)."""
    stable = ~points.overloaded
    result = np.ones(len(t_s))
    chosen = Waiting(waits.probability[stable], waits.mean_s[stable])
    weights = wait_weights(t_s[stable], chosen)
    rises = np.diff(mixed[stable], axis=1)
    result[stable] = np.minimum(mixed[stable, 0] + (rises * weights).sum(axis=1), 1.0)
    return result


def latency_quantile(arrays: KindArrays, points: OperatingPoints, waits: Waiting, q: float) -> Floats:
    """Return the latency in seconds that a fraction q of requests stays within, (C,); inf if overloaded."""
    wait = np.where(points.overloaded, 0.0, waits.mean_s)
    low: Floats = np.zeros(len(points.rho))
    high: Floats = 20.0 * arrays.mean_s(points.rho).max(axis=1) + 20.0 * wait + arrays.beside_s.max()
    at_low: Floats = np.full(len(low), q)
    at_high: Floats = np.full(len(low), q - 1.0)
    # Regula falsi with the Illinois correction (Dowell and Jarratt 1971); sign: P(latency > t) - (1 - q).
    side = np.zeros(len(low))
    for _ in range(_QUANTILE_STEPS):
        middle: Floats = (low * at_high - high * at_low) / (at_high - at_low)
        value = latency_tail(arrays, points, waits, middle) - (1.0 - q)
        right = value > 0.0
        at_high = np.where(right & (side > 0), at_high / 2.0, np.where(right, at_high, value))
        at_low = np.where(~right & (side < 0), at_low / 2.0, np.where(right, value, at_low))
        low, high = np.where(right, middle, low), np.where(right, high, middle)
        side = np.where(right, 1.0, -1.0)
        if np.all((np.abs(value) < 1e-9) | (high - low < 1e-7 * high) | points.overloaded):
            break
    return np.where(points.overloaded, np.inf, (low * at_high - high * at_low) / (at_high - at_low))


def _normal_tail(z: Floats) -> Floats:
    """Return P(N(0,1) > z) by Abramowitz and Stegun 26.2.17, absolute error below 7.5e-8."""
    x = np.abs(z)
    t = 1.0 / (1.0 + 0.2316419 * x)
    series = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    with np.errstate(under="ignore"):
        upper = np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi) * series
    return np.where(z >= 0.0, upper, 1.0 - upper)
